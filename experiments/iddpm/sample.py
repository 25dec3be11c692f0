"""Samples a trained or released improved DDPM.

  python -m experiments.iddpm.sample --weights cifar10_uncond_50M_500K.pt \\
    --grid 250
  python -m experiments.iddpm.sample --weights runs/digits --label 3 \\
    --sampler dpm_solver_pp_2m --steps 20
  python -m experiments.iddpm.sample --weights upsample_cond_500K.pt \\
    --low-res samples.npz

Released files keep their names. An upsampler enlarges the images of
`--low-res`: an .npz with arr_0 (and labels in arr_1), or a folder of PNGs; by
default the first images of the test split, shrunk, with their labels. With
`--classifier`, a workdir of `experiments.iddpm.classifier` or one of ADM's
released classifiers, its gradient guides the samples.
"""

from pathlib import Path

import numpy as np
import tyro

from experiments import models
from experiments.cli import command_line
from experiments.models import CROPS, Model
from experiments.plots import save_grid
from experiments.sampling import Sampling, generate, make_draw
from jaxgen import data
from jaxgen.metrics import files

DEFAULT = Sampling()


def small_images(
  model: Model, path: str, n: int
) -> tuple[dict[str, np.ndarray], int]:
  """What an upsampler is told, at most n rows of it, and how many.

  Args:
    model: an upsampler.
    path: of images; empty for those of the test split.
    n: how many are wanted.

  Raises:
    ValueError: the images are of another size.
  """
  config, size = model.config, model.low_res_size
  labels = None
  if path:
    images = files.open_images(path, config.image_channels)
    n = min(n, len(images))
    low_res = data.to_unit(np.stack([images[i] for i in range(n)]))
    if path.endswith(".npz"):
      with np.load(path, allow_pickle=False) as arrays:
        if "arr_1" in arrays.files:
          labels = arrays["arr_1"][:n]
  else:
    source = data.load(
      config.dataset, config.test_split, config.data_dir or None
    )
    n = min(n, len(source))
    crop = CROPS[config.crop]
    large = [crop(source[i]["image"], config.image_size) for i in range(n)]
    low_res = data.shrink(data.to_unit(np.stack(large)), size)
    if model.num_classes:
      labels = np.array([source[i]["label"] for i in range(n)])
  if low_res.shape[1:3] != (size, size):
    raise ValueError(
      f"this upsampler enlarges images of {size} x {size}, got "
      f"{low_res.shape[1]} x {low_res.shape[2]}"
    )
  given = {"low_res": low_res}
  if model.num_classes and labels is not None:
    given["label"] = labels.astype(np.int32)
  return given, n


def main(
  weights: str,
  how: tyro.conf.OmitArgPrefixes[Sampling] = DEFAULT,
  n: int = 64,
  batch_size: int = 64,
  seed: int = 0,
  low_res: str = "",
  classifier: str = "",
  out: str = "runs/samples",
) -> None:
  """Writes samples.npz (uint8) and grid.png.

  Args:
    weights: a workdir, or a released file.
    how: the sampler.
    n: number of images.
    batch_size: images at a time.
    seed: of the noise.
    low_res: images for an upsampler.
    classifier: that guides the samples.
    out: directory for the results.
  """
  model = models.load(weights)
  if low_res and not model.low_res_size:
    raise ValueError(f"{weights} is no upsampler and takes no --low-res")
  if classifier:
    from experiments.iddpm.classifier import guide

    model = guide(model, classifier)
  given: dict[str, np.ndarray] = {}
  if model.low_res_size:
    given, n = small_images(model, low_res, n)
  if how.label is not None:
    given.pop("label", None)
  images = generate(
    make_draw(model, how), model.params, n, seed, batch_size, how.sampler, given
  )
  directory = Path(out)
  directory.mkdir(parents=True, exist_ok=True)
  np.savez(directory / "samples.npz", images)
  save_grid(directory / "grid.png", images[:64], columns=8)
  print(f"{n} samples: {directory / 'grid.png'}, {directory / 'samples.npz'}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
