import json
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_weights import seeded_state

from jaxgen.convert import score_sde
from jaxgen.convert.flax_files import read_msgpack
from jaxgen.convert.state import write_safetensors
from jaxgen.nn.ncsnpp import NCSNpp

DATA = Path(__file__).parents[1] / "data"
ARRAYS = np.load(DATA / "score_sde_torch.npz")
UNET = NCSNpp(16, (1, 2), 2, (8,), num_scales=100)  # the arrays' "ve"
SIZE = 16
SHAPES = json.loads(str(ARRAYS["ve/shapes"]))
# The original model's parameters that have a gradient, in its order.
TRAINED = json.loads(str(ARRAYS["ve/trained"]))
FREQUENCIES = "all_modules.0.W"

DIFFUSERS = NCSNpp(
  16, (1, 2), 1, (8,), progressive="output_skip", progressive_input="input_skip"
)


@pytest.fixture(scope="module")
def state():
  sigmas = {"sigmas": ARRAYS["ve/sigmas"]}
  return seeded_state(SHAPES, output_axis=0) | sigmas


@pytest.fixture
def checkpoint(state):
  """As score_sde_pytorch saves it: averages that differ from the model."""
  return {
    "optimizer": {"state": {}, "param_groups": []},
    "model": {f"module.{name}": tensor for name, tensor in state.items()},
    "ema": {
      "decay": 0.999,
      "num_updates": 7,
      "shadow_params": [2 * state[name] for name in TRAINED],
    },
    "step": 7,
  }


def random_params(unet, seed=0):
  x = jnp.zeros((1, SIZE, SIZE, 3))
  template = jax.eval_shape(unet.init, jax.random.key(0), x, jnp.ones(1))
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape, np.float32),
    template["params"],
  )


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_model_and_its_averages(checkpoint, state):
  model = score_sde.pytorch_state(checkpoint, ema=False)
  assert {*model} == {*state}
  averages = score_sde.pytorch_state(checkpoint)
  assert {*averages} == {*state}
  assert {*SHAPES} - {*TRAINED} == {FREQUENCIES}
  for name in state:
    factor = 1 if name in ("sigmas", FREQUENCIES) else 2
    np.testing.assert_array_equal(averages[name], factor * state[name])
    np.testing.assert_array_equal(model[name], state[name])


def test_loads_what_torch_saves(tmp_path, checkpoint, state):
  torch = pytest.importorskip("torch")
  pytest.importorskip("jaxgen.convert.torch_files")
  path = tmp_path / "checkpoint_8.pth"
  checkpoint["ema"]["shadow_params"] = [
    torch.from_numpy(x) for x in checkpoint["ema"]["shadow_params"]
  ]
  checkpoint["model"] = {  # in its order, which a tree map would lose
    k: torch.from_numpy(x) for k, x in checkpoint["model"].items()
  }
  torch.save(checkpoint, path)
  equal(
    score_sde.load(path, UNET, SIZE, ema=False),
    score_sde.from_pytorch(state, UNET, SIZE),
  )
  averages = score_sde.pytorch_state(checkpoint)
  equal(
    score_sde.load(path, UNET, SIZE),
    score_sde.from_pytorch(averages, UNET, SIZE),
  )


def test_noise_levels_may_be_absent_but_not_others(state):
  without = {k: v for k, v in state.items() if k != "sigmas"}
  equal(
    score_sde.from_pytorch(without, UNET, SIZE),
    score_sde.from_pytorch(state, UNET, SIZE),
  )
  other = UNET.clone(sigma_max=90.0)
  with pytest.raises(
    ValueError, match=r"100 from 50 to 0.01, the network 100 from 90 to 0.01"
  ):
    score_sde.from_pytorch(state, other, SIZE)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda s: s | {"extra": np.zeros(1)},
      r"does not fit, unused: extra\.",
    ),
    (
      lambda s: {
        k: v for k, v in s.items() if k != "all_modules.5.Conv_1.bias"
      },
      r"missing: all_modules.5.Conv_1.bias",
    ),
    (
      lambda s: s | {FREQUENCIES: np.zeros(15, np.float32)},
      r"wrong shapes: all_modules.0.W \(15,\) for \(16,\)",
    ),
    (lambda s: {}, "all_modules.3.weight, the first convolution, is missing"),
  ],
  ids=["unused", "missing", "shape", "empty"],
)
def test_a_state_that_does_not_fit_is_one_sentence(state, change, message):
  with pytest.raises(ValueError, match=message):
    score_sde.from_pytorch(change(state), UNET, SIZE)


def test_attention_elsewhere_does_not_fit(state):
  with pytest.raises(ValueError, match="does not fit, missing"):
    score_sde.from_pytorch(state, UNET, 8)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: [c], "lacks the model or ema"),
    (lambda c: {"model": c["model"]}, "lacks the model or ema"),
    (
      lambda c: c | {"ema": {"shadow_params": c["ema"]["shadow_params"][1:]}},
      f"{len(TRAINED) - 1} averages do not fit its {len(TRAINED)} trained",
    ),
  ],
  ids=["list", "no averages", "too few averages"],
)
def test_another_checkpoint_is_one_sentence(checkpoint, change, message):
  with pytest.raises(ValueError, match=message):
    score_sde.pytorch_state(change(checkpoint))


def test_flax_training_state(tmp_path):
  """The fields of score_sde's State, as flax.training.checkpoints wrote it."""
  arrays = np.load(DATA / "score_sde_flax.npz")
  shapes = json.loads(str(arrays["fir_up/shapes"]))
  unet = NCSNpp(16, (1, 2), 1, (8,), progressive="residual")
  flat = seeded_state(shapes, output_axis=-1)
  params = {}
  for name, leaf in flat.items():
    *scopes, last = name.split("/")
    scope = params
    for key in scopes:
      scope = scope.setdefault(key, {})
    scope[last] = leaf
  double = jax.tree.map(lambda leaf: 2 * leaf, params)
  path = tmp_path / "checkpoint_12"
  path.write_bytes(
    flax.serialization.to_bytes(
      {
        "step": 7,
        "optimizer": {"target": params, "state": {"step": 7}},
        "lr": 2e-4,
        "model_state": {},
        "ema_rate": 0.999,
        "params_ema": double,
        "rng": np.zeros(2, np.uint32),
      }
    )
  )
  equal(
    score_sde.load(path, unet, SIZE, ema=False),
    score_sde.from_flax(params, unet, SIZE),
  )
  equal(
    score_sde.load(path, unet, SIZE), score_sde.from_flax(double, unet, SIZE)
  )
  with pytest.raises(ValueError, match="lacks the params_ema of score_sde"):
    score_sde.flax_params({"step": 7})
  del params["Conv_0"]["bias"]
  with pytest.raises(ValueError, match="missing: Conv_0/bias"):
    score_sde.from_flax(params, unet, SIZE)


def test_bad_flax_files_are_one_sentence(tmp_path):
  path = tmp_path / "checkpoint_1"
  with pytest.raises(FileNotFoundError, match=f"no checkpoint file {path}"):
    read_msgpack(path)
  whole = flax.serialization.to_bytes({"params_ema": {"a": np.arange(9.0)}})
  for content in (
    b"",
    whole[:-5],
    whole + b"x",
    b"\x80\x02}q\x00.",
    b"PK\x03\x04",
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a") as caught:
      read_msgpack(path)
    assert "\n" not in str(caught.value)
  path.write_bytes(flax.serialization.msgpack_serialize([1, 2]))
  with pytest.raises(ValueError, match="it holds list"):
    read_msgpack(path)


@pytest.mark.parametrize(
  "unet",
  [
    UNET,
    UNET.clone(resblock="ddpm", progressive="residual"),
    UNET.clone(fir_kernel=None, progressive_input="none"),
    DIFFUSERS,
  ],
  ids=["ve", "ddpm blocks", "ddpm++", "skips"],
)
def test_pytorch_round_trip_is_exact(unet):
  params = random_params(unet)
  state = score_sde.to_pytorch(params, unet)
  equal(score_sde.from_pytorch(state, unet, SIZE), params)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_diffusers_files(tmp_path, old):
  params = random_params(DIFFUSERS)
  state = score_sde.to_diffusers(params, DIFFUSERS)
  if old:  # names that attention weights had before
    renamed = {
      "to_q": "query",
      "to_k": "key",
      "to_v": "value",
      "to_out.0": "proj_attn",
    }
    for new, former in renamed.items():
      state = {
        k.replace(f".{new}.", f".{former}."): v for k, v in state.items()
      }
  path = tmp_path / "diffusion_pytorch_model.safetensors"
  write_safetensors(path, state)
  equal(score_sde.load(path, DIFFUSERS, SIZE), params)
  with pytest.raises(ValueError, match="has progressive 'output_skip', got"):
    score_sde.load(path, UNET, SIZE)
