"""Writes score_sde_sampling.npz from score_sde_pytorch's sampling and losses.

    python tests/data/make_score_sde_sampling.py CHECKOUT

CHECKOUT is a clone at the commit in PROVENANCE.md; needs torch and scipy. The
score is a formula, the random numbers are those of numpy, handed to the code in
the place of torch's; everything else runs as it is.
"""

import sys
from pathlib import Path

import numpy as np

N, INDEX, SHAPE = 100, 60, (3, 4, 4, 2)
T = (INDEX + 0.5) / (N - 1)  # int(T (N - 1)) is INDEX whatever the rounding


def main(checkout):
  sys.path.insert(0, checkout)
  import likelihood
  import losses
  import sampling
  import sde_lib
  import torch
  from models import utils as mutils

  rng = np.random.default_rng(0)
  x, z = rng.standard_normal((2, *SHAPE)).astype(np.float32)
  u = rng.random(SHAPE[0]).astype(np.float32)
  labels = np.array([3, 50, 97])
  signs = rng.integers(0, 2, SHAPE).astype(np.float32)
  stored = {"x": x, "z": z, "u": u, "labels": labels, "signs": signs}
  torch.randn_like = lambda a: torch.from_numpy(z)
  torch.rand = lambda *a, **k: torch.from_numpy(u)
  torch.randint = lambda *a, **k: torch.from_numpy(labels)
  torch.randint_like = lambda *a, **k: torch.from_numpy(signs)

  def score_of(sde):
    def score(x, t):
      _, std = sde.marginal_prob(x, t)
      t, std = t.reshape(-1, 1, 1, 1), std.reshape(-1, 1, 1, 1)
      return (torch.cos(x) * t - 0.5 * x) / (1 + std**2)

    return score

  mutils.get_model_fn = lambda *a, **k: lambda x, t: torch.cos(x) - 0.5 * x
  sdes = {
    "vp": sde_lib.VPSDE(0.1, 20.0, N),
    "subvp": sde_lib.subVPSDE(0.1, 20.0, N),
    "ve": sde_lib.VESDE(0.01, 50.0, N),
  }
  t = torch.full((SHAPE[0],), T)
  batch = torch.from_numpy(x)
  predictors = {
    "euler_maruyama": (sampling.EulerMaruyamaPredictor, False),
    "reverse": (sampling.ReverseDiffusionPredictor, False),
    "flow": (sampling.ReverseDiffusionPredictor, True),
    "ancestral": (sampling.AncestralSamplingPredictor, False),
  }
  correctors = {
    "langevin": sampling.LangevinCorrector,
    "annealed": sampling.AnnealedLangevinDynamics,
  }
  for name, sde in sdes.items():
    score = score_of(sde)
    mutils.get_score_fn = lambda *a, score=score, **k: score
    for kind, (predictor, flow) in predictors.items():
      if name == "subvp" and kind == "ancestral":
        continue
      out, _ = predictor(sde, score, flow).update_fn(batch, t)
      stored[f"{name}/{kind}"] = out.numpy()
    for kind, corrector in correctors.items():
      if name != "subvp":  # which fails there: it has no alphas
        out, _ = corrector(sde, score, 0.16, 1).update_fn(batch, t)
        stored[f"{name}/{kind}"] = out.numpy()
    for weighted in (False, True):
      for mean in (False, True):
        loss = losses.get_sde_loss_fn(sde, True, mean, True, weighted)
        key = f"{name}/loss weighted={weighted} mean={mean}"
        stored[key] = loss(None, batch).numpy()
    find = likelihood.get_likelihood_fn(sde, lambda x: (x + 1) / 2)
    bits, latent, evaluations = find(None, batch)
    stored[f"{name}/bits"] = bits.numpy()
    stored[f"{name}/latent"] = latent.numpy()
    stored[f"{name}/evaluations"] = np.asarray(evaluations)
  smld = losses.get_smld_loss_fn(sdes["ve"], True)
  stored["ve/smld"] = smld(None, batch).numpy()
  ddpm = losses.get_ddpm_loss_fn(sdes["vp"], True)
  stored["vp/ddpm"] = ddpm(None, batch).numpy()
  path = Path(__file__).parent / "score_sde_sampling.npz"
  np.savez_compressed(path, **stored)
  for name, value in stored.items():
    print(name, value.shape, value if value.size < 4 else "")


if __name__ == "__main__":
  main(sys.argv[1])
