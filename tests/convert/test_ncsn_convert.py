import json
from pathlib import Path

import jax
import numpy as np
import pytest
from seeded_weights import seeded_state

from jaxgen.convert import ncsn
from jaxgen.nn.ncsn import NCSN

ARRAYS = np.load(Path(__file__).parents[1] / "data" / "ncsn.npz")
V1 = NCSN(8)
V2 = NCSN(8, conditional=False, sigma_max=50.0, num_scales=100)


def state_of(case):
  state = seeded_state(json.loads(str(ARRAYS[f"{case}/shapes"])), 0)
  if f"{case}/sigmas" in ARRAYS:
    state["sigmas"] = ARRAYS[f"{case}/sigmas"]
  return state


def checkpoint_of(case, averages=True):
  """As ermongroup's runners save it: averages that differ from the model."""
  state = state_of(case)
  model = {f"module.{name}": tensor for name, tensor in state.items()}
  if not averages:
    return [model, {"state": {}}]
  ema = {name: 2 * x for name, x in state.items() if name != "sigmas"}
  return [model, {"state": {}}, 3, 500, ema]


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_model_and_its_averages():
  state = state_of("ncsnv2")
  equal(ncsn.pytorch_state(checkpoint_of("ncsnv2"), ema=False), state)
  averages = ncsn.pytorch_state(checkpoint_of("ncsnv2"))
  np.testing.assert_array_equal(averages.pop("sigmas"), state.pop("sigmas"))
  equal(averages, {name: 2 * x for name, x in state.items()})


def test_loads_what_torch_saves(tmp_path):
  torch = pytest.importorskip("torch")
  pytest.importorskip("jaxgen.convert.torch_files")
  for case, network, ema in (("ncsn", V1, False), ("ncsnv2", V2, True)):
    checkpoint = checkpoint_of(case, averages=ema)
    path = tmp_path / f"{case}.pth"
    torch.save(
      jax.tree.map(
        lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x,
        checkpoint,
      ),
      path,
    )
    state = ncsn.pytorch_state(checkpoint, ema)
    equal(ncsn.load(path, network, ema), ncsn.from_pytorch(state, network))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: {"model": c[0]}, "is no list of model and optimizer"),
    (lambda c: c[:2], "no averaged parameters; NCSN's are read with ema=False"),
    (lambda c: [*c[:4], {}], "0 averages do not fit its model"),
  ],
  ids=["dictionary", "no averages", "too few averages"],
)
def test_another_checkpoint_is_one_sentence(change, message):
  with pytest.raises(ValueError, match=message):
    ncsn.pytorch_state(change(checkpoint_of("ncsnv2")))


@pytest.mark.parametrize(
  ("change", "network", "message"),
  [
    (lambda s: s | {"extra": np.zeros(1)}, V2, r"unused: extra\."),
    (
      lambda s: {k: v for k, v in s.items() if k != "res1.0.conv1.bias"},
      *(V2, "missing: res1.0.conv1.bias"),
    ),
    (lambda s: s, V2.clone(sigma_max=90.0), "100 from 50 to 0.01, the network"),
    (
      lambda s: {k: v for k, v in s.items() if k != "sigmas"},
      *(V1, "does not fit, missing: "),
    ),
    (lambda s: s, V2.clone(channel_mult=(1, 2, 2)), "4 to 6 stages, got 3"),
    (lambda s: {}, V2, "no begin_conv.weight: not NCSN's"),
  ],
  ids=["unused", "missing", "levels", "conditional", "stages", "empty"],
)
def test_a_state_that_does_not_fit_is_one_sentence(change, network, message):
  with pytest.raises(ValueError, match=message):
    ncsn.from_pytorch(change(state_of("ncsnv2")), network)
