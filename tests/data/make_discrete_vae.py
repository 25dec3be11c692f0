"""Writes discrete_vae.npz: outputs and losses of BEiT's own discrete VAE.

  PYTHONPATH=tests:BEIT python tests/data/make_discrete_vae.py

BEIT is the folder beit of microsoft/unilm; with the PyPI packages DALL-E 0.1,
attrs and einops, which its module imports.
"""

from pathlib import Path

import numpy as np
import torch
from modeling_discrete_vae import DiscreteVAE
from seeded_weights import seeded_state

SIZES = {
  "image_size": 16,
  "num_tokens": 24,
  "codebook_dim": 12,
  "num_layers": 3,
  "hidden_dim": 16,
}
KL_WEIGHT, TAU = 0.01, 0.8


def channels_last(x):
  return x.detach().permute(0, 2, 3, 1).numpy()


def main() -> None:
  rng = np.random.default_rng(0)
  x = torch.from_numpy(rng.uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32))
  arrays = {"x": channels_last(x)}
  losses = []
  for smooth_l1 in (False, True):
    model = DiscreteVAE(
      **SIZES, smooth_l1_loss=smooth_l1, kl_div_loss_weight=KL_WEIGHT
    )
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    state = seeded_state(shapes, 0)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    torch.manual_seed(0)
    noise = -torch.empty(3, 24, 2, 2).exponential_().log()
    torch.manual_seed(0)
    loss, soft = model(x, return_loss=True, return_recons=True, temp=TAU)
    losses.append(loss.item())
  tokens = model.get_codebook_indices(x)
  arrays |= {
    "names": np.array(list(shapes)),
    "shapes": np.array([(*s, 0, 0, 0, 0)[:4] for s in shapes.values()]),
    "logits": channels_last(model(x, return_logits=True)),
    "tokens": tokens.numpy(),
    "decoded": channels_last(model.decode(tokens.flatten(1))),
    "gumbel": channels_last(noise),
    "soft": channels_last(soft),
    "losses": np.array(losses),
  }
  np.savez_compressed(Path(__file__).with_name("discrete_vae.npz"), **arrays)
  # BEiT's own sizes (utils.get_d_vae of the released code).
  whole = DiscreteVAE(112, 8192, 512, 3, 256)
  for name in ("encoder", "decoder", "codebook"):
    part = getattr(whole, name)
    print(name, sum(p.numel() for p in part.parameters()))


if __name__ == "__main__":
  main()
