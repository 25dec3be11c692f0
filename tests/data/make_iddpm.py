"""Writes iddpm.npz: the algebra of openai/improved-diffusion.

Run in tests/, as PROVENANCE.md says.
"""

import numpy as np
import torch

np.int = int  # removed from numpy since
from improved_diffusion import gaussian_diffusion as gd
from improved_diffusion.resample import LossSecondMomentResampler
from improved_diffusion.respace import SpacedDiffusion, space_timesteps

T = 100
VARIANCES = {
  "range": gd.ModelVarType.LEARNED_RANGE,
  "learned": gd.ModelVarType.LEARNED,
  "large": gd.ModelVarType.FIXED_LARGE,
  "small": gd.ModelVarType.FIXED_SMALL,
}
LOSSES = {
  "hybrid": gd.LossType.RESCALED_MSE,
  "plain": gd.LossType.MSE,
  "bound": gd.LossType.RESCALED_KL,
}


def network(variance):
  """Any function of x and t will do."""

  def apply(x, t):
    t = t.float().view(-1, 1, 1, 1)
    eps = 0.4 * x + 0.1 * torch.sin(3 * x) + 0.05 * t / T
    second = {"range": torch.cos(2 * x), "learned": torch.sin(2 * x) - 3}
    if variance in second:
      return torch.cat([eps, second[variance]], dim=1)
    return eps

  return apply


def diffusion(variance, loss="hybrid", spec="100"):
  return SpacedDiffusion(
    use_timesteps=space_timesteps(T, spec),
    betas=gd.get_named_beta_schedule("cosine", T),
    model_mean_type=gd.ModelMeanType.EPSILON,
    model_var_type=VARIANCES[variance],
    loss_type=LOSSES[loss],
  )


def main():
  random = np.random.RandomState(0)
  x = np.round(random.uniform(0, 255, (4, 2, 5, 5))) / 127.5 - 1
  x = torch.from_numpy(x.astype(np.float32))
  draws = random.standard_normal((200, 4, 2, 5, 5)).astype(np.float32)
  noise = torch.from_numpy(draws[0])
  stored = {"x_0": x.numpy(), "draws": draws[:40]}
  t = torch.tensor([0, 1, 57, 99])

  def feed():
    later = iter(draws[1:])
    torch.randn_like = lambda x: torch.from_numpy(next(later))

  for name in VARIANCES:
    process, model = diffusion(name), network(name)
    x_t = process.q_sample(x, t, noise)
    out = process.p_mean_variance(model, x_t, t)
    stored[f"{name}/mean"] = out["mean"].numpy()
    stored[f"{name}/log_variance"] = out["log_variance"].numpy()
    bits = process._vb_terms_bpd(model, x, x_t, t, clip_denoised=False)
    stored[f"{name}/bits"] = bits["output"].numpy()
  for loss in LOSSES:
    process = diffusion("range", loss)
    terms = process.training_losses(network("range"), x, t, noise=noise)
    stored[f"{loss}/loss"] = terms["loss"].numpy()
  for spec in ("20", "5,8"):
    process, model = diffusion("range", spec=spec), network("range")
    feed()
    found = process.calc_bpd_loop(model, x)
    stored |= {f"nll_{spec}/{k}": v.numpy() for k, v in found.items()}
    n = process.num_timesteps
    for name in ("ancestral", "ddim_0.0", "ddim_0.7"):
      feed()
      y = noise
      for i in reversed(range(n)):
        index = torch.full((4,), i)
        if name == "ancestral":
          out = process.p_sample(model, y, index)
        else:
          eta = float(name[5:])
          out = process.ddim_sample(model, y, index, eta=eta)
        y = out["sample"]
      stored[f"{name}_{spec}"] = y.numpy()

  class Terms:
    num_timesteps = 6

  sampler = LossSecondMomentResampler(Terms())
  times = random.randint(0, 6, 150)
  losses = random.uniform(0, 2, 150) * (1 + times)
  weights = []
  for part in np.split(np.arange(150), 10):
    sampler.update_with_all_losses(times[part], losses[part])
    w = sampler.weights()
    weights.append(w / w.sum())
  stored |= {"times": times, "losses": losses, "weights": np.stack(weights)}
  np.savez_compressed("data/iddpm.npz", **stored)


if __name__ == "__main__":
  main()
