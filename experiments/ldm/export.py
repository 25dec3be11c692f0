"""Makes a folder of a trained model that is small enough to be published.

  python -m experiments.ldm.export --weights runs/openmoji-txt2img \\
    --out openmoji-txt2img

`--weights FOLDER` of `experiments.ldm.sample` reads it. Parameters are the
averaged ones, in half precision; a model that is told a class or a text needs
no encoder of images, which is left out.
"""

import dataclasses
from pathlib import Path

import tyro

from experiments.cli import command_line
from experiments.ldm import files, model
from experiments.ldm.config import IMAGES, Config
from jaxgen import training
from jaxgen.types import PyTree

_OF_THIS_MACHINE = ("workdir", "data_dir", "first_stage", "vocab")


def export(weights: str, out: str) -> Path:
  """Writes the folder.

  Args:
    weights: a workdir of `experiments.ldm.train`.
    out: the folder, which is made.

  Returns:
    The folder.

  Raises:
    FileNotFoundError: there is no checkpoint.
    OSError: the folder is not empty, or cannot be written.
  """
  workdir, folder = Path(weights), Path(out)
  if not (workdir / "checkpoints").is_dir():
    raise FileNotFoundError(f"{weights} is no workdir of experiments.ldm.train")
  config, _, params = model.load(weights)
  fields = dataclasses.asdict(config)
  fields |= dict.fromkeys(_OF_THIS_MACHINE, "")
  fields["dtype"] = "float32"  # the faster on a CPU, whatever it was trained in
  fields["steps"] = training.trained_steps(workdir / "checkpoints")
  files.write(folder, fields, published(config, params), workdir)
  size = (folder / files.PARAMS).stat().st_size / 1e6
  print(f"saved: {folder}, {size:.1f} MB")
  return folder


def published(config: Config, params: PyTree) -> PyTree:
  """The parameters that sampling needs."""
  if config.condition in IMAGES:
    return params
  first_stage = {
    name: part
    for name, part in params["first_stage"].items()
    if name not in files.ENCODER
  }
  return {**params, "first_stage": first_stage}


if __name__ == "__main__":
  command_line(lambda: tyro.cli(export))
