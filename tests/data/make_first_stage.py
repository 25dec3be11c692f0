"""Writes first_stage.npz: latent diffusion's first stages and their losses.

    python data/make_first_stage.py LDM_CHECKOUT TAMING_CHECKOUT

Run in tests/, as PROVENANCE.md says.
"""

import json
import sys
from types import ModuleType

import numpy as np
import torch

sys.path.insert(0, ".")
from seeded_weights import seeded_state

SIZE = 32
NETWORK = {
  "ch": 32,
  "out_ch": 3,
  "ch_mult": (1, 2),
  "num_res_blocks": 1,
  "attn_resolutions": [16],
  "dropout": 0.0,
  "in_channels": 3,
  "resolution": SIZE,
}
LOSS = {"disc_start": 5, "disc_num_layers": 2, "disc_weight": 0.5}
VGG = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M"]
VGG += [512, 512, 512, "M"]


def stand_in(name, **attributes):
  """A module of that name that holds nothing else."""
  module = ModuleType(name)
  vars(module).update(attributes)
  sys.modules[name] = module
  return module


def vgg16(pretrained):
  """torchvision's layers, without its weights."""
  layers, channels = [], 3
  for width in VGG:
    if width == "M":
      layers.append(torch.nn.MaxPool2d(2, 2))
    else:
      layers.append(torch.nn.Conv2d(channels, width, 3, padding=1))
      layers.append(torch.nn.ReLU(inplace=True))
      channels = width
  module = torch.nn.Module()
  module.features = torch.nn.Sequential(*layers)
  return module


def with_seeded_weights(module):
  """Every parameter drawn by its name; statistics as they start."""
  shapes = {k: list(p.shape) for k, p in module.named_parameters()}
  state = seeded_state(shapes, output_axis=0)
  with torch.no_grad():
    for name, p in module.named_parameters():
      p.copy_(torch.as_tensor(state[name]))
  return module


def to_torch(x):
  return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def to_numpy(x):
  x = x.detach()
  return (
    x.permute(0, 2, 3, 1).contiguous().numpy() if x.ndim == 4 else x.numpy()
  )


def numbers(logged, *names):
  return np.float32([float(logged[f"train/{name}"]) for name in names])


def autoencoders(stored, images):
  from ldm.models import autoencoder

  x = to_torch(images)
  config = {"target": "ldm.modules.losses.LPIPSWithDiscriminator"}
  config["params"] = LOSS | {"kl_weight": 1e-6}
  options = NETWORK | {"z_channels": 4, "double_z": True}
  kl = with_seeded_weights(autoencoder.AutoencoderKL(options, config, 4))
  with torch.no_grad():
    kl.loss.logvar.fill_(0.3)
  stored["kl_shapes"] = shapes_of(kl)
  posterior = kl.encode(x)
  stored["kl_mean"] = to_numpy(posterior.mean)
  stored["kl_logvar"] = to_numpy(posterior.logvar)
  x_hat = kl.decode(posterior.mode())
  stored["kl_x_hat"] = to_numpy(x_hat)
  for step in (4, 5):
    _, logged = kl.loss(x, x_hat, posterior, 0, step, kl.get_last_layer())
    names = ("total_loss", "nll_loss", "kl_loss", "d_weight", "g_loss")
    stored[f"kl_losses_{step}"] = numbers(logged, *names)
    _, logged = kl.loss(x, x_hat, posterior, 1, step, kl.get_last_layer())
    stored[f"kl_disc_{step}"] = numbers(logged, "disc_loss")

  target = "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"
  config = {"target": target, "params": LOSS | {"disc_loss": "vanilla"}}
  options = NETWORK | {"z_channels": 3, "double_z": False, "attn_type": "none"}
  options["attn_resolutions"] = []
  vq = autoencoder.VQModelInterface(3, options, config, 20)
  with_seeded_weights(vq)
  stored["vq_shapes"] = shapes_of(vq)
  z = vq.encode(x)
  stored["vq_z"] = to_numpy(z)
  _, loss, (_, _, indices) = vq.quantize(z)
  stored["vq_indices"] = indices.reshape(2, SIZE // 2, SIZE // 2).numpy()
  x_hat = vq.decode(z)
  stored["vq_x_hat"] = to_numpy(x_hat)
  _, logged = vq.loss(loss, x, x_hat, 0, 9, vq.get_last_layer())
  names = ("total_loss", "nll_loss", "quant_loss", "d_weight", "g_loss")
  stored["vq_losses_9"] = numbers(logged, *names)
  _, logged = vq.loss(loss, x, x_hat, 1, 9, vq.get_last_layer())
  stored["vq_disc_9"] = numbers(logged, "disc_loss")


def shapes_of(module):
  shapes = {k: list(v.shape) for k, v in module.state_dict().items()}
  return json.dumps(shapes)


def quantizers(stored, draw):
  from taming.modules.vqvae.quantize import VectorQuantizer2

  z, codebook, slope = draw(2, 4, 6, 5), draw(12, 5), draw(2, 4, 6, 5)
  stored |= {"q_z": z, "q_codebook": codebook, "q_slope": slope}
  for legacy in (True, False):
    quantizer = VectorQuantizer2(12, 5, beta=0.25, legacy=legacy)
    quantizer.embedding.weight.data.copy_(torch.from_numpy(codebook))
    x = to_torch(z).requires_grad_()
    z_q, loss, (_, _, indices) = quantizer(x)
    (loss + (z_q * to_torch(slope)).sum()).backward()
    stored |= {
      f"q_{legacy}_z_q": to_numpy(z_q),
      f"q_{legacy}_indices": indices.reshape(2, 4, 6).numpy(),
      f"q_{legacy}_loss": loss.detach().numpy(),
      f"q_{legacy}_grad_z": to_numpy(x.grad),
      f"q_{legacy}_grad_codebook": quantizer.embedding.weight.grad.numpy(),
    }
  return stored


def discriminators(stored, images):
  from taming.modules.discriminator.model import NLayerDiscriminator

  net = with_seeded_weights(NLayerDiscriminator(3, ndf=8, n_layers=3))
  stored["d_shapes"] = shapes_of(net)
  x = to_torch(images).requires_grad_()
  out = net(x)
  (out**2).sum().backward()
  stored |= {"d_train": to_numpy(out), "d_grad": to_numpy(x.grad)}
  stored["d_train_again"] = to_numpy(net(0.5 * x))
  stored["d_test"] = to_numpy(net.eval()(x))
  for name, tensor in net.state_dict().items():
    if "running" in name:
      stored[f"d_{name}"] = tensor.numpy()
  return stored


def distances(stored, images, others):
  from taming.modules.losses.lpips import LPIPS

  net = with_seeded_weights(LPIPS().eval())
  x, y = to_torch(images), to_torch(others).requires_grad_()
  d = net(x, y)
  d.sum().backward()
  stored |= {"lpips": d.detach().reshape(-1).numpy()}
  return stored | {"lpips_grad": to_numpy(y.grad)}


def main(ldm, taming):
  sys.path[:0] = [ldm, taming]
  stand_in("pytorch_lightning", LightningModule=torch.nn.Module)
  stand_in("torchvision", models=stand_in("torchvision.models", vgg16=vgg16))
  from taming.modules.losses.lpips import LPIPS

  LPIPS.load_from_pretrained = lambda self: None
  random = np.random.RandomState(0)
  draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
  images, others = 0.5 * draw(2, 2, SIZE, SIZE, 3)
  stored = {"images": images, "others": others}
  autoencoders(stored, images)
  stored = quantizers(stored, draw)
  stored = discriminators(stored, images)
  stored = distances(stored, images, others)
  np.savez_compressed("data/first_stage.npz", **stored)


if __name__ == "__main__":
  main(*sys.argv[1:])
