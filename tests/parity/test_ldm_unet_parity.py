"""Latent diffusion's networks against CompVis' code and diffusers'.

CompVis' outputs are stored (tests/data/PROVENANCE.md): it is no package. The
weights are random, no layer being zero.
"""

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from random_ldm import (
  CASES,
  TRANSFORMERS,
  random_inputs,
  transformer_inputs,
  transformer_state,
  twin,
)
from random_openai import quick_jit, random_state

from jaxgen.convert import ldm_unet
from jaxgen.convert.state import to_flax, to_torch
from jaxgen.nn.ldm_unet import LDM_NETWORKS, UNet
from jaxgen.nn.spatial_transformer import SpatialTransformer

STORED = np.load(Path(__file__).parents[1] / "data/ldm_unet.npz")
TINY = UNet(64, (1,), 1, (1,), 4, context_dim=24)


def relative_error(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def original_layer(path):
  """The name of a transformer's tensor, written out."""
  names = {"to_out": "to_out.0", "ff_in": "ff.net.0.proj", "ff_out": "ff.net.2"}
  names |= {f"block_{i}": f"transformer_blocks.{i}" for i in range(2)}
  names |= {"kernel": "weight", "scale": "weight"}
  return ".".join(names.get(part, part) for part in path)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_equals_the_original(name):
  num_heads, depth, has_context = TRANSFORMERS[name]
  x, context = transformer_inputs()
  args = (x, context) if has_context else (x,)
  module = SpatialTransformer(num_heads, depth)
  template = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  leaves = {original_layer(k): v for k, v in flatten_dict(template).items()}
  convolutions = ("proj_in.weight", "proj_out.weight")
  state = transformer_state(
    {
      k: to_torch(np.broadcast_to(0.0, v.shape), 4 * (k in convolutions)).shape
      for k, v in leaves.items()
    }
  )
  params = {
    path: to_flax(state[original_layer(path)], len(leaf.shape))
    for path, leaf in flatten_dict(template).items()
  }
  out = quick_jit(module.apply)({"params": unflatten_dict(params)}, *args)
  wanted = STORED[f"transformer/{name}"]
  assert relative_error(out - x, wanted - x) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_network_equals_the_original(name):
  unet, given = twin(name), random_inputs(name)
  lines = (line.split(" ", 1) for line in STORED[f"{name}/shapes"])
  shapes = {k: [int(n) for n in s.strip("(,)").split(",")] for k, s in lines}
  params = ldm_unet.from_original(random_state(shapes), unet)
  out = quick_jit(unet.apply)({"params": params}, **given)
  assert relative_error(out, STORED[f"{name}/out"]) <= 2e-5


def diffusers_twin(unet):
  """diffusers' twin of `unet`, every parameter random."""
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  levels = range(len(unet.channel_mult))
  kinds = ["CrossAttn" * (2**i in unet.attention_resolutions) for i in levels]
  net = diffusers.UNet2DConditionModel(
    sample_size=8,
    in_channels=unet.out_channels + unet.concat_channels,
    out_channels=unet.out_channels,
    block_out_channels=[unet.channels * m for m in unet.channel_mult],
    layers_per_block=unet.num_res_blocks,
    down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
    up_block_types=[f"{kind}UpBlock2D" for kind in kinds[::-1]],
    cross_attention_dim=unet.context_dim,
    transformer_layers_per_block=unet.transformer_depth,
    attention_head_dim=unet.num_heads,  # the heads, in spite of its name
    num_class_embeds=unet.num_classes,
  ).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, p in net.named_parameters():
      noise = torch.randn(p.shape, generator=generator)
      if p.ndim > 1:  # about the variance of the input
        p.copy_(noise / p[0].numel() ** 0.5)
      else:
        p.copy_(0.2 * noise + ("norm" in name and name.endswith("weight")))
  return net


def numpy_state(module):
  return {k: v.detach().numpy() for k, v in module.state_dict().items()}


def diffusers_inputs(unet, size, tokens):
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.standard_normal(shape, np.float32)
  given = {"x": draw(2, *size, unet.out_channels), "t": np.array([981, 3])}
  given["context"] = draw(2, tokens, unet.context_dim)
  if unet.concat_channels:
    given["concat"] = draw(2, *size, unet.concat_channels)
  if unet.num_classes:
    given["y"] = np.array([3, 1])
  return given


def run_diffusers(net, x, t, context, concat=None, y=None):
  import torch

  if concat is not None:
    x = np.concatenate([x, concat], axis=-1)
  x = torch.from_numpy(x).permute(0, 3, 1, 2)
  labels = None if y is None else torch.from_numpy(y)
  return net(
    x, torch.from_numpy(t), torch.from_numpy(context), class_labels=labels
  ).sample.permute(0, 2, 3, 1)


DIFFUSERS_CASES = {
  "sd1": (UNet(64, (1, 2), 1, (1,), 8, context_dim=24), (8, 4)),
  "hybrid": (
    TINY.clone(transformer_depth=2, concat_channels=5, num_classes=5),
    (4, 6),
  ),
}


@pytest.mark.parametrize("name", DIFFUSERS_CASES)
def test_network_equals_diffusers(name):
  torch = pytest.importorskip("torch")
  unet, size = DIFFUSERS_CASES[name]
  net = diffusers_twin(unet)
  state = numpy_state(net)
  params = ldm_unet.from_diffusers(state, unet)
  given = diffusers_inputs(unet, size, tokens=5)
  out = quick_jit(unet.apply)({"params": params}, **given)
  with torch.no_grad():
    wanted = run_diffusers(net, **given).numpy()
  assert relative_error(out, wanted) <= 2e-5
  back = ldm_unet.to_diffusers(params, unet)
  assert set(back) == set(state)
  jax.tree.map(np.testing.assert_array_equal, back, state)


@pytest.mark.slow  # half a minute to compile
def test_gradients_equal_torch():
  net = diffusers_twin(TINY)
  params = ldm_unet.from_diffusers(numpy_state(net), TINY)
  given = diffusers_inputs(TINY, (4, 4), tokens=5)

  def loss(params):
    return jnp.mean(TINY.apply({"params": params}, **given) ** 2)

  ours = ldm_unet.to_diffusers(quick_jit(jax.grad(loss))(params), TINY)
  (run_diffusers(net, **given) ** 2).mean().backward()
  for name, p in net.named_parameters():
    assert relative_error(ours[name], p.grad.numpy()) <= 1e-4, name


@pytest.mark.slow  # 12 GB of memory, minutes
def test_sd1_equals_diffusers_at_full_size():
  torch = pytest.importorskip("torch")
  unet = LDM_NETWORKS["sd1"]
  net = diffusers_twin(unet)
  given = diffusers_inputs(unet, (64, 64), tokens=77)
  given = {k: v[:1] for k, v in given.items()}
  with torch.no_grad():
    wanted = run_diffusers(net, **given).numpy()
  params = ldm_unet.from_diffusers(numpy_state(net), unet)
  del net
  gc.collect()
  out = jax.jit(unet.apply)({"params": params}, **given)
  error = relative_error(out, wanted)
  print(f"relative error {error:.2e}")
  assert error <= 5e-5
