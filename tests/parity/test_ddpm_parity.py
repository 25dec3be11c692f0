"""The DDPM U-Net against diffusers' with the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.convert import ddpm
from jaxgen.nn.ddpm_unet import NETWORKS, UNet
from jaxgen.nn.embeddings import sinusoidal_embedding

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def published_unet(unet, image_size, seed=0):
  """diffusers' twin of `unet`, every parameter random."""
  levels = range(len(unet.channel_mult))
  has_attention = [
    image_size // 2**i in unet.attention_resolutions for i in levels
  ]
  kinds = ["Attn" * here for here in has_attention]
  twin = diffusers.UNet2DModel(
    sample_size=image_size,
    block_out_channels=[unet.channels * m for m in unet.channel_mult],
    layers_per_block=unet.num_res_blocks,
    down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
    up_block_types=[f"{kind}UpBlock2D" for kind in kinds[::-1]],
    attention_head_dim=None,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
  ).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in twin.named_parameters():
      noise = torch.randn(p.shape, generator=generator)
      if p.ndim > 1:  # about the variance of the input
        p.copy_(noise / p[0].numel() ** 0.5)
      else:
        p.copy_(0.2 * noise + ("norm" in name and name.endswith("weight")))
  return twin


def numpy_state(module):
  return {k: v.detach().numpy() for k, v in module.state_dict().items()}


def inputs(batch, image_size, seed=1):
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((batch, image_size, image_size, 3), np.float32)
  return x, np.array([999, 3, 500, 0])[:batch]


def run(twin, x, t):
  return twin(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(t))


def relative_error(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


SMALL_256 = UNet(
  32, (1, 1, 2, 2, 4, 4), attention_resolutions=(4,), dropout=0.0
)


@pytest.mark.parametrize(
  ("unet", "image_size", "batch"),
  [(NETWORKS["cifar10"], 32, 2), (SMALL_256, 64, 1)],
  ids=["cifar10", "six levels"],
)
def test_forward_equals_diffusers(unet, image_size, batch):
  twin = published_unet(unet, image_size)
  params = ddpm.from_diffusers(numpy_state(twin), unet)
  x, t = inputs(batch, image_size)
  ours = jax.jit(unet.apply)({"params": params}, x, t)
  with torch.no_grad():
    theirs = run(twin, x, t).sample.permute(0, 2, 3, 1).numpy()
  assert relative_error(ours, theirs) <= 2e-5


def test_gradients_equal_torch():
  unet = UNet(64, (1, 2), 1, attention_resolutions=(8,), dropout=0.0)
  twin = published_unet(unet, 16)
  params = ddpm.from_diffusers(numpy_state(twin), unet)
  x, t = inputs(2, 16)
  target = inputs(2, 16, seed=2)[0]

  def loss(params):
    return jnp.mean((unet.apply({"params": params}, x, t) - target) ** 2)

  ours = ddpm.to_diffusers(jax.jit(jax.grad(loss))(params), unet)
  target = torch.from_numpy(target).permute(0, 3, 1, 2)
  ((run(twin, x, t).sample - target) ** 2).mean().backward()
  for name, p in twin.named_parameters():
    if name.endswith("to_k.bias"):  # zero: it shifts all logits of a row
      assert np.abs(ours[name]).max() < 1e-7
    else:
      assert relative_error(ours[name], p.grad.numpy()) <= 1e-4, name


def test_round_trip_is_exact():
  unet = UNet(32, (1, 2, 2), attention_resolutions=(8,))
  state = numpy_state(published_unet(unet, 16))
  back = ddpm.to_diffusers(ddpm.from_diffusers(state, unet), unet)
  assert set(back) == set(state)
  for name, tensor in state.items():
    np.testing.assert_array_equal(back[name], tensor)


def test_saved_network_loads_in_diffusers(tmp_path):
  unet = UNet(32, (1, 2), 1, attention_resolutions=(8,), dropout=0.0)
  x, t = inputs(2, 16)
  twin = published_unet(unet, 16)
  ddpm.save(tmp_path, ddpm.from_diffusers(numpy_state(twin), unet), unet, 16)
  theirs = diffusers.UNet2DModel.from_pretrained(tmp_path).eval()
  with torch.no_grad():
    np.testing.assert_array_equal(
      run(theirs, x, t).sample, run(twin, x, t).sample
    )


def test_loads_what_diffusers_saves(tmp_path):
  unet = UNet(32, (1, 2), 1, attention_resolutions=(8,), dropout=0.0)
  twin = published_unet(unet, 16)
  twin.save_pretrained(tmp_path / "unet")
  loaded, params = ddpm.load(tmp_path)
  assert loaded == unet
  x, t = inputs(2, 16)
  with torch.no_grad():
    theirs = run(twin, x, t).sample.permute(0, 2, 3, 1).numpy()
  ours = jax.jit(loaded.apply)({"params": params}, x, t)
  assert relative_error(ours, theirs) <= 2e-5


@pytest.mark.parametrize(("cos_first", "shift"), [(False, 1), (True, 0)])
@pytest.mark.parametrize("dim", [128, 33])
def test_sinusoidal_embedding(cos_first, shift, dim):
  from diffusers.models.embeddings import get_timestep_embedding

  t = np.array([0.0, 1.0, 10.5, 999.0], np.float32)
  ours = sinusoidal_embedding(t, dim, cos_first=cos_first, endpoint=bool(shift))
  theirs = get_timestep_embedding(
    torch.from_numpy(t), dim, cos_first, downscale_freq_shift=shift
  )
  # float32 angles up to 999 hold four decimals
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
