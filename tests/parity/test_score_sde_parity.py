"""NCSN++, DDPM++ and the filters against the original code's outputs.

The arrays are described in tests/data/PROVENANCE.md.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from seeded_weights import seeded_state

from jaxgen.convert import score_sde
from jaxgen.convert import score_sde_names as names
from jaxgen.nn.ncsnpp import NCSNpp

DATA = Path(__file__).parents[1] / "data"
TORCH = np.load(DATA / "score_sde_torch.npz")
FLAX = np.load(DATA / "score_sde_flax.npz")

TINY = NCSNpp(16, (1, 2), 1, (8,), num_scales=100)
VP = TINY.clone(embedding="positional", centered=True, scale_by_sigma=False)
PLAIN = {"fir_kernel": None, "progressive_input": "none"}
SKIPS = {"progressive": "output_skip", "progressive_input": "input_skip"}
DDPM = VP.clone(
  channels=128,
  channel_mult=(1, 1),
  attention_resolutions=(4,),
  resblock="ddpm",
  skip_rescale=False,
  **PLAIN,
)
NETWORKS = {
  "ve": TINY.clone(num_res_blocks=2),
  "ve_discrete": TINY.clone(embedding="positional", fir_kernel=(1, 4, 2, 1)),
  "ve_256": TINY.clone(channel_mult=(1, 2, 2), **SKIPS),
  "vp_ddpmpp": VP.clone(**PLAIN),
  "cat": VP.clone(**SKIPS, progressive_combine="cat"),
  "ddpm_blocks_fir": TINY.clone(
    embedding="positional",
    resblock="ddpm",
    resample_with_conv=False,
    skip_rescale=False,
  ),
  "ve_ddpm": DDPM.clone(centered=False, scale_by_sigma=True),
  "fir_up": TINY.clone(progressive="residual"),
  "ddpm_blocks": TINY.clone(
    resblock="ddpm",
    fir_kernel=None,
    skip_rescale=False,
    progressive="residual",
    init_scale=0.5,
  ),
  "ddpm_blocks_mean": TINY.clone(
    resblock="ddpm", resample_with_conv=False, **PLAIN
  ),
  "ddpm_blocks_fir_conv": TINY.clone(resblock="ddpm", **SKIPS),
  "ddpm_unconditional": DDPM.clone(conditional=False),
}


def weights(arrays, case, output_axis):
  return seeded_state(json.loads(str(arrays[f"{case}/shapes"])), output_axis)


def relative_error(a, b):
  """The largest of the examples': their scales differ by the noise level's."""
  axes = tuple(range(1, b.ndim))
  errors = np.sqrt(((a - b) ** 2).sum(axes) / (b**2).sum(axes))
  return errors.max()


def check_output(arrays, case, params):
  ours = jax.jit(NETWORKS[case].apply)(
    {"params": params}, arrays[f"{case}/x"], arrays[f"{case}/time_cond"]
  )
  assert ours.dtype == jnp.float32
  assert relative_error(ours, arrays[f"{case}/output"]) <= 2e-5


@pytest.mark.parametrize("case", [c for c in NETWORKS if f"{c}/x" in TORCH])
def test_equals_score_sde_pytorch(case):
  unet, size = NETWORKS[case], TORCH[f"{case}/x"].shape[1]
  state = weights(TORCH, case, output_axis=0)
  state["sigmas"] = TORCH[f"{case}/sigmas"]
  params = score_sde.from_pytorch(state, unet, size)
  check_output(TORCH, case, params)
  assert sum(p.size for p in jax.tree.leaves(params)) == TORCH[f"{case}/count"]
  back = score_sde.to_pytorch(params, unet)
  assert {*back} == {*state}
  for name, tensor in state.items():
    np.testing.assert_allclose(
      back[name], tensor, rtol=1e-6 if name == "sigmas" else 0
    )


@pytest.mark.parametrize("case", [c for c in NETWORKS if f"{c}/x" in FLAX])
def test_equals_score_sde(case):
  flat = weights(FLAX, case, output_axis=-1)
  params = {}
  for name, leaf in flat.items():
    *scopes, last = name.split("/")
    scope = params
    for key in scopes:
      scope = scope.setdefault(key, {})
    scope[last] = leaf
  size = FLAX[f"{case}/x"].shape[1]
  check_output(FLAX, case, score_sde.from_flax(params, NETWORKS[case], size))


@pytest.mark.slow
def test_starts_as_score_sde_does():
  """Uniform kernels with the same bounds, constants equal.

  This network has every kind of layer.
  """
  case = "ddpm_blocks_fir_conv"
  # lazily and with this generator: the quickest to compile
  params = NETWORKS[case].lazy_init(
    jax.random.key(0, impl="rbg"),
    *(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 16, 16, 3), (2,))),
  )["params"]
  modules = names.flax_modules(NETWORKS[case], {1}, "ncsnpp")
  shapes = json.loads(str(FLAX[f"{case}/shapes"]))
  bounds = dict(zip(shapes, FLAX[f"{case}/initial_max"], strict=True))
  for path, leaf in flatten_dict(params).items():
    bound = bounds.pop(names.flax_name(path, modules, NETWORKS[case]))
    if path[0] == "fourier":  # normal of deviation 16
      assert 8 < leaf.std() < 24
    elif leaf.size > 400:  # so many entries come close to the bound
      assert np.abs(leaf).max() == pytest.approx(bound, rel=0.03), path
    elif leaf.ndim == 1:
      assert np.abs(leaf).max() == bound, path
  assert not bounds


# google/ncsnpp-*: attention at the second of two levels.
DIFFUSERS = NCSNpp(128, (1, 1), 1, (4,), **SKIPS)


def diffusers_twin(diffusers):
  sides = {
    side: [f"Skip{side}Block2D", f"AttnSkip{side}Block2D"]
    for side in ("Down", "Up")
  }
  return diffusers.UNet2DModel(
    sample_size=8,
    center_input_sample=True,
    time_embedding_type="fourier",
    down_block_types=sides["Down"],
    up_block_types=sides["Up"][::-1],
    block_out_channels=(128, 128),
    layers_per_block=1,
    mid_block_scale_factor=2**0.5,
    attention_head_dim=None,
    norm_num_groups=None,
    norm_eps=1e-6,
  ).eval()


@pytest.mark.slow
def test_equals_diffusers():
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  twin = diffusers_twin(diffusers)
  state = seeded_state({k: v.shape for k, v in twin.state_dict().items()}, 0)
  state["time_proj.weight"] *= 16
  twin.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 8, 8, 3), np.float32)
  sigma = np.array([0.3, 11.0], np.float32)
  with torch.no_grad():
    nchw = torch.from_numpy(x).permute(0, 3, 1, 2)
    theirs = twin(nchw, torch.from_numpy(sigma)).sample
  params = score_sde.from_diffusers(state, DIFFUSERS, 8)
  ours = jax.jit(DIFFUSERS.apply)({"params": params}, x, sigma)
  assert relative_error(ours, theirs.permute(0, 2, 3, 1).numpy()) <= 2e-5
  back = score_sde.to_diffusers(params, DIFFUSERS)
  assert {*back} == {*state}
  for name, tensor in state.items():
    np.testing.assert_array_equal(back[name], tensor)
