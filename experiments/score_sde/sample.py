"""Samples a trained or published score SDE.

  python -m experiments.score_sde.sample --weights runs/mnist5k_ve
  python -m experiments.score_sde.sample --predictor ode --corrector none \\
    --weights vp/cifar10_ddpmpp_continuous:checkpoint_12.pth

`--weights` takes a workdir of `experiments.score_sde.train`, or NAME:PATH of a
published checkpoint. Langevin correctors average norms over a batch: images
depend on --batch-size, which the paper sets to 1024 for CIFAR-10. With the
published classifier, --classifier PATH --label 3 samples one class of CIFAR-10
from its VE networks.
"""

from pathlib import Path

import numpy as np
import tyro

from experiments import models
from experiments.cli import command_line
from experiments.plots import save_grid
from experiments.sampling import generate
from experiments.score_sde.conditional import with_classifier
from experiments.score_sde.sampling import ScoreSampling, make_draw
from jaxgen.convert import score_classifier
from jaxgen.nn.score_classifier import WideResNet

DEFAULT = ScoreSampling()


def main(
  weights: str,
  how: tyro.conf.OmitArgPrefixes[ScoreSampling] = DEFAULT,
  n: int = 64,
  batch_size: int = 64,
  seed: int = 0,
  out: str = "runs/samples",
  classifier: str = "",
  label: int = 0,
) -> None:
  """Writes samples.npz (uint8) and grid.png.

  Args:
    weights: a workdir, or NAME:PATH.
    how: the sampler.
    n: number of images.
    batch_size: images at a time.
    seed: of the noise.
    out: directory for the results.
    classifier: weights of the published noise-conditional classifier.
    label: the class to sample with it.
  """
  model = models.load(weights)
  if classifier:
    network = WideResNet()
    params = score_classifier.load(classifier, network)
    model = with_classifier(model, network, params, label)
  images = generate(make_draw(model, how), model.params, n, seed, batch_size)
  directory = Path(out)
  directory.mkdir(parents=True, exist_ok=True)
  np.savez(directory / "samples.npz", images)
  save_grid(directory / "grid.png", images[:64], columns=8)
  print(f"{n} samples: {directory / 'grid.png'}, {directory / 'samples.npz'}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
