"""AdamW with rates that depend on the layer, and BEiT's schedule."""

import jax
import numpy as np
import optax
import pytest

from jaxgen.nn.beit import Beit, Classifier, MaskedImageModel
from jaxgen.training.layer_decay import (
  decayed,
  layer_decay_adamw,
  rate_scales,
  warmed_up_cosine,
  warmed_up_poly,
)

BACKBONE = Beit(8, 16, 3, 2, 32, absolute_positions=True)
X = np.zeros((1, 16, 16, 3), np.float32)


def flat(tree):
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {"/".join(e.key for e in path): leaf for path, leaf in paths}


def params_of(network):
  params = network.init(jax.random.key(0), X)["params"]
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda p: rng.standard_normal(p.shape).astype(np.float32), params
  )


def test_scales():
  """decay^(L + 1 - i), as BEiT numbers its layers."""
  scales = flat(rate_scales(params_of(MaskedImageModel(BACKBONE, 8)), 3, 0.5))
  want = {
    "backbone/cls_token": 0.5**4,
    "backbone/mask_token": 0.5**4,
    "backbone/pos_embed": 0.5**4,
    "backbone/patch_embed/kernel": 0.5**4,
    "backbone/block_0/attn/qkv": 0.5**3,
    "backbone/block_2/fc2/bias": 0.5**1,
    "backbone/relative_bias/table": 1,
    "norm/scale": 1,
    "lm_head/kernel": 1,
  }
  assert {name: scales[name] for name in want} == want
  with pytest.raises(ValueError, match=r"in \(0, 1\], got 0"):
    rate_scales({}, 3, 0)
  with pytest.raises(ValueError, match="told of 1 blocks"):
    rate_scales(params_of(Classifier(BACKBONE, 4)), 1, 0.5)


def test_what_weight_decay_acts_on():
  acts = flat(decayed(params_of(MaskedImageModel(BACKBONE, 8))))
  for name in ("mask_token", "relative_bias/table", "block_0/attn/qkv"):
    assert acts[f"backbone/{name}"]
  for name in ("cls_token", "pos_embed", "block_0/gamma_1", "block_0/fc1/bias"):
    assert not acts[f"backbone/{name}"]
  params = params_of(MaskedImageModel(BACKBONE, 8))
  acts = flat(decayed(params, left_out=()))
  for name, p in flat(params).items():
    assert acts[name] == (p.ndim > 1)


def test_steps_against_torch():
  """torch.optim.AdamW with one group for each rate and decay."""
  torch = pytest.importorskip("torch")
  params = params_of(Classifier(BACKBONE, 4))
  rate, decay, weight_decay = 0.1, 0.6, 0.2
  theirs = {
    k: torch.nn.Parameter(torch.tensor(v)) for k, v in flat(params).items()
  }
  layer = lambda name: (
    int(name.split("block_")[1][0]) + 1
    if "block_" in name
    else 0
    if any(part in name for part in ("token", "pos_embed", "patch_embed"))
    else 4
  )
  groups = [
    {
      "params": [p],
      "lr": rate * decay ** (4 - layer(name)),
      "weight_decay": weight_decay
      if p.ndim > 1 and "cls_token" not in name and "pos_embed" not in name
      else 0.0,
    }
    for name, p in theirs.items()
  ]
  adamw = torch.optim.AdamW(groups)
  optimizer = layer_decay_adamw(rate, 3, decay=decay, weight_decay=weight_decay)
  state = optimizer.init(params)
  rng = np.random.default_rng(1)
  for _ in range(3):
    grads = jax.tree.map(
      lambda p: rng.standard_normal(p.shape).astype(np.float32), params
    )
    for name, grad in flat(grads).items():
      theirs[name].grad = torch.tensor(grad)
    adamw.step()
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  for name, found in flat(params).items():
    want = theirs[name].detach().numpy()
    np.testing.assert_allclose(found, want, atol=2e-5, err_msg=name)


def test_schedule_is_the_released_list():
  rate, final, warmup, steps = 1.5e-3, 1e-5, 10, 50
  i = np.arange(steps - warmup)
  listed = np.concatenate(
    [
      np.linspace(0, rate, warmup),
      final + 0.5 * (rate - final) * (1 + np.cos(np.pi * i / len(i))),
    ]
  )
  schedule = warmed_up_cosine(rate, final, warmup, steps)
  np.testing.assert_allclose(schedule(np.arange(steps)), listed, rtol=1e-4)


def test_the_straight_line_and_its_warm_up():
  """A line from 8 to 0 in 160; the first 40 steps are less, at first by 3/4."""
  schedule = warmed_up_poly(8.0, 160, 40, warmup_ratio=0.25)
  by_hand = {
    0: 8 * 0.25,
    10: 7.5 * (0.25 + 0.75 / 4),
    20: 7 * (0.25 + 0.75 / 2),
    39: 6.05 * (1 - 0.75 / 40),
    40: 6,
    80: 4,
    120: 2,
    160: 0,
    200: 0,
  }
  steps = np.array(list(by_hand))
  np.testing.assert_allclose(
    schedule(steps), list(by_hand.values()), rtol=1e-5, atol=1e-6
  )
  plain = warmed_up_poly(8.0, 160, 0, power=2.0, final=4.0)
  np.testing.assert_allclose(plain(np.array([0, 80, 160])), [8, 5, 4])
