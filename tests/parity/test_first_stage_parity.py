"""First stages, their losses and networks against diffusers and the originals.

diffusers runs live; what CompVis' code gave is stored
(tests/data/PROVENANCE.md). The weights are random and drawn again here.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from random_openai import quick_jit
from seeded_weights import seeded_state

from jaxgen.convert import (
  discriminator,
  first_stage,
  first_stage_folders,
  lpips,
)
from jaxgen.nn.autoencoder import (
  KL_AUTOENCODERS,
  AutoencoderKL,
  VQAutoencoder,
  attention_levels,
  last_convolution,
  last_kernel,
)
from jaxgen.nn.discriminators import NLayerDiscriminator
from jaxgen.nn.lpips import LPIPS
from jaxgen.nn.quantizers import VectorQuantizer
from jaxgen.training import autoencoder_losses as losses

STORED = np.load(Path(__file__).parents[1] / "data/first_stage.npz")
IMAGES = STORED["images"]

KL = AutoencoderKL(
  4,
  (1, 2),
  attention_resolutions=(16,),
  resolution=32,
  channels=32,
  num_res_blocks=1,
)
VQ = VQAutoencoder(
  20, 3, (1, 2), mid_attention=False, channels=32, num_res_blocks=1
)


def relative_error(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def stored_state(name):
  """The original's weights, drawn by their names; its statistics at rest."""
  shapes = json.loads(str(STORED[f"{name}_shapes"]))
  floats = {k: s for k, s in shapes.items() if "tracked" not in k}
  state = seeded_state(floats, output_axis=0)
  for k, x in state.items():
    if "running" in k:
      state[k] = np.full_like(x, "var" in k)
  return state


def call(network, params, method):
  return lambda *args: network.apply({"params": params}, *args, method=method)


def test_lpips_and_its_gradient_equal_the_original():
  shapes = json.loads(str(STORED["kl_shapes"]))
  of_lpips = {
    k: shapes[lpips.PREFIX + k] for k in lpips.names() if "scaling" not in k
  }
  params = lpips.from_original(seeded_state(of_lpips, output_axis=0))

  def f(y, params):
    d = LPIPS().apply({"params": params}, IMAGES, y)
    return d.sum(), d

  gradient, d = quick_jit(jax.grad(f, has_aux=True))(STORED["others"], params)
  assert relative_error(d, STORED["lpips"]) <= 2e-5
  assert relative_error(gradient, STORED["lpips_grad"]) <= 1e-4


def adversarial(network, params, z, nll_of):
  """The reconstruction, the weight and the losses that the original logs.

  Args:
    network: the autoencoder.
    params: of the autoencoder, of LPIPS and of the discriminator.
    z: the latent to decode, quantised if need be.
    nll_of: errors -> reconstruction loss.
  """
  own, of_lpips, of_disc = params

  def nll(x_hat):
    distance = LPIPS().apply({"params": of_lpips}, IMAGES, x_hat)
    return nll_of(losses.reconstruction_errors(IMAGES, x_hat, distance))

  judge = lambda x: NLayerDiscriminator(num_layers=2).apply(of_disc, x)
  generator = lambda x_hat: losses.generator_loss(judge(x_hat))
  features = call(network, own, "decode_features")(z)
  reconstruct = lambda kernel: last_convolution(own, features, kernel)
  kernel = last_kernel(own)
  d = losses.adaptive_weight(reconstruct, kernel, nll, generator)
  x_hat = reconstruct(kernel)
  real, fake = judge(IMAGES), judge(x_hat)
  return {
    "x_hat": x_hat,
    "nll": nll(x_hat),
    "d": d,
    "g": losses.generator_loss(fake),
    "hinge": losses.hinge_d_loss(real, fake),
    "vanilla": losses.vanilla_d_loss(real, fake),
  }


def all_params(state, network):
  return (
    first_stage.from_original(state, network),
    lpips.from_original(state),
    discriminator.from_original(state, NLayerDiscriminator(num_layers=2)),
  )


def test_kl_autoencoder_and_its_losses_equal_the_original():
  def run(params):
    posterior = call(KL, params[0], "encode")(IMAGES)
    nll_of = lambda errors: losses.laplace_nll(errors, 0.3)
    out = adversarial(KL, params, posterior.mean, nll_of)
    return out | {"posterior": posterior, "kl": losses.kl_loss(posterior, 1.0)}

  out = quick_jit(run)(all_params(stored_state("kl"), KL))
  assert relative_error(out["posterior"].mean, STORED["kl_mean"]) <= 2e-5
  assert relative_error(out["posterior"].logvar, STORED["kl_logvar"]) <= 2e-5
  assert relative_error(out["x_hat"], STORED["kl_x_hat"]) <= 2e-5
  for step in (4, 5):
    weight = losses.delayed(1.0, step, 5)
    total = out["nll"] + 1e-6 * out["kl"] + weight * out["d"] * out["g"]
    got = [total, out["nll"], out["kl"], out["d"], out["g"]]
    np.testing.assert_allclose(got, STORED[f"kl_losses_{step}"], rtol=5e-5)
    d_loss = weight * out["hinge"]
    np.testing.assert_allclose(d_loss, STORED[f"kl_disc_{step}"][0], rtol=5e-5)


def test_vq_autoencoder_and_its_losses_equal_the_original():
  def run(params):
    z = call(VQ, params[0], "encode")(IMAGES)
    q = call(VQ, params[0], "quantize")(z)
    out = adversarial(VQ, params, q.z_q, losses.mean_error)
    return out | {"z": z, "q": q}

  out = quick_jit(run)(all_params(stored_state("vq"), VQ))
  assert relative_error(out["z"], STORED["vq_z"]) <= 2e-5
  np.testing.assert_array_equal(out["q"].indices, STORED["vq_indices"])
  assert len(np.unique(STORED["vq_indices"])) > 4
  assert relative_error(out["x_hat"], STORED["vq_x_hat"]) <= 2e-5
  total = out["nll"] + out["q"].loss + out["d"] * out["g"]
  got = [total, out["nll"], out["q"].loss, out["d"], out["g"]]
  np.testing.assert_allclose(got, STORED["vq_losses_9"], rtol=5e-5)
  np.testing.assert_allclose(out["vanilla"], STORED["vq_disc_9"][0], rtol=5e-5)


@pytest.mark.parametrize("legacy", [True, False])
def test_quantizer_and_its_gradients_equal_the_original(legacy):
  z, book, slope = (STORED[f"q_{k}"] for k in ("z", "codebook", "slope"))

  def f(z, book):
    quantizer = VectorQuantizer(*book.shape, legacy=legacy)
    q = quantizer.apply({"params": {"embedding": book}}, z)
    return q.loss + (q.z_q * slope).sum(), q

  (_, q), grads = jax.value_and_grad(f, (0, 1), has_aux=True)(z, book)
  stored = {
    name: STORED[f"q_{legacy}_{name}"]
    for name in ("z_q", "indices", "loss", "grad_z", "grad_codebook")
  }
  np.testing.assert_array_equal(q.indices, stored["indices"])
  np.testing.assert_allclose(q.z_q, stored["z_q"], rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(q.loss, stored["loss"], rtol=1e-6)
  assert relative_error(grads[0], stored["grad_z"]) <= 1e-6
  assert relative_error(grads[1], stored["grad_codebook"]) <= 1e-6


def test_discriminator_equals_the_original():
  """Two batches in training, the statistics they leave, and a test."""
  network = NLayerDiscriminator(channels=8)
  start = discriminator.from_original(stored_state("d"), network)

  def run(v, x):
    def train(v, x):
      out, updates = network.apply(v, x, mutable=["batch_stats"])
      return out, {**v, **updates}

    def f(x):
      out, after = train(v, x)
      return (out**2).sum(), (out, after)

    grad, (first, v) = jax.grad(f, has_aux=True)(x)
    second, v = train(v, 0.5 * x)
    return first, grad, second, v, network.apply(v, x, train=False)

  first, grad, second, v, tested = quick_jit(run)(start, IMAGES)
  assert relative_error(first, STORED["d_train"]) <= 2e-5
  assert relative_error(grad, STORED["d_grad"]) <= 1e-4
  assert relative_error(second, STORED["d_train_again"]) <= 2e-5
  assert relative_error(tested, STORED["d_test"]) <= 2e-5
  for name, tensor in discriminator.to_original(v).items():
    if "running" in name:
      assert relative_error(tensor, STORED[f"d_{name}"]) <= 2e-5


def diffusers_twin(network, **options):
  """diffusers' network of ours, every parameter random."""
  diffusers = pytest.importorskip("diffusers")
  torch = pytest.importorskip("torch")
  levels = range(len(network.channel_mult))
  attention = attention_levels(network)
  kinds = ["Attn" * (i in attention) for i in levels]
  kind = diffusers.AutoencoderKL
  if isinstance(network, VQAutoencoder):
    kind = diffusers.VQModel
    options["num_vq_embeddings"] = network.num_codes
  twin = kind(
    block_out_channels=[network.channels * m for m in network.channel_mult],
    down_block_types=[f"{kind}DownEncoderBlock2D" for kind in kinds],
    up_block_types=[f"{kind}UpDecoderBlock2D" for kind in kinds[::-1]],
    layers_per_block=network.num_res_blocks,
    latent_channels=network.z_channels,
    mid_block_add_attention=network.mid_attention,
    **options,
  ).eval()
  generator = torch.Generator().manual_seed(0)
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


def compare(network, twin, x, tolerance):
  """Encodes and decodes with both; the errors of encoder and decoder."""
  import torch

  nchw = lambda x: torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)
  nhwc = lambda x: x.permute(0, 2, 3, 1).numpy()
  state = numpy_state(twin)
  params = first_stage.from_diffusers(state, network)
  back = first_stage.to_diffusers(params, network)
  jax.tree.map(np.testing.assert_array_equal, back, state)

  def run(params, x):
    latent = call(network, params, "encode")(x)
    z = latent.mean if isinstance(network, AutoencoderKL) else latent
    return latent, z, call(network, params, "decode")(z)

  latent, z, x_hat = quick_jit(run)(params, x)
  with torch.no_grad():
    encoded = twin.encode(nchw(x))
    if isinstance(network, AutoencoderKL):
      theirs = encoded.latent_dist.mean, encoded.latent_dist.logvar
    else:
      theirs = (encoded.latents,)
    decoded = twin.decode(nchw(z)).sample
  pairs = list(zip(jax.tree.leaves(latent), map(nhwc, theirs), strict=True))
  pairs.append((x_hat, nhwc(decoded)))
  errors = [relative_error(a, b) for a, b in pairs]
  assert max(errors) <= tolerance
  return errors


@pytest.mark.parametrize(
  "network",
  [
    KL.clone(channel_mult=(1, 2, 2), z_channels=3),
    VQAutoencoder(
      11,
      3,
      (1, 2),
      attention_resolutions=(128,),
      channels=32,
      num_res_blocks=1,
    ),
    VQ.clone(num_res_blocks=2),
  ],
  ids=["kl", "vq", "vq-noattn"],
)
def test_output_equals_diffusers(network):
  x = np.random.default_rng(0).standard_normal((2, 16, 24, 3), np.float32)
  compare(network, diffusers_twin(network), x, tolerance=2e-5)


@pytest.mark.parametrize("network", [KL, VQ], ids=["kl", "vq"])
def test_folders_are_diffusers(network, tmp_path):
  """What it saves is loaded, and what is saved it loads."""
  twin = diffusers_twin(network, scaling_factor=0.25)
  twin.save_pretrained(tmp_path / "pipeline" / "vae")
  loaded, params, scale = first_stage_folders.load(tmp_path / "pipeline")
  assert attention_levels(loaded) == attention_levels(network)
  own = {"resolution": 32, "attention_resolutions": ()}
  assert loaded.clone(**own) == network.clone(**own)
  assert scale == 0.25
  first_stage_folders.save(tmp_path / "ours", params, loaded, scale)
  back = type(twin).from_pretrained(tmp_path / "ours")
  assert back.config.scaling_factor == 0.25
  jax.tree.map(
    np.testing.assert_array_equal, numpy_state(back), numpy_state(twin)
  )
  kinds = [list(each.config.down_block_types) for each in (back, twin)]
  assert kinds[0] == kinds[1]


@pytest.mark.slow
def test_stable_diffusions_first_stage_equals_diffusers():
  network = KL_AUTOENCODERS["kl-f8"]
  x = np.random.default_rng(0).uniform(-1, 1, (1, 128, 128, 3))
  x = x.astype(np.float32)
  errors = compare(network, diffusers_twin(network), x, tolerance=5e-5)
  print(errors)
