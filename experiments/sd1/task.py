"""What the three scripts share: their options, and files that say it all."""

import dataclasses
import time
from pathlib import Path

import jaxgen
from experiments.sd1 import config, files
from experiments.sd1.config import How
from experiments.sd1.pipeline import Request, Start, generate, keep_programs
from experiments.sd1.weights import Model, load


@dataclasses.dataclass(frozen=True)
class Task:
  """What to make.

  Attributes:
    prompt: one or several, each in quotes.
    weights: a .ckpt or .safetensors file, or a folder of diffusers.
    negative: what the images shall not show.
    n: images of every prompt.
    seed: of a prompt's first image; those after it have seed + 1, ...
    batch_size: images at a time, over all devices.
    tokenizer: folder of vocab.json and merges.txt, or of tokenizer.json, if
      they are not beside the weights.
    progress: show the steps.
    out: directory for the images.
  """

  prompt: tuple[str, ...]
  weights: str
  negative: str = ""
  n: int = 4
  seed: int = 0
  batch_size: int = 4
  tokenizer: str | None = None
  progress: bool = True
  out: str = "runs/sd1"


def prepare(task: Task, how: How) -> Model:
  """Checks the options, then loads the model."""
  keep_programs()
  if not task.prompt or task.n < 1:
    raise ValueError(
      f"wanted at least one prompt and n of at least 1, got {task.prompt} and "
      f"{task.n}"
    )
  config.check(how)
  return load(task.weights, task.tokenizer)


def run(
  model: Model, task: Task, how: How, start: Start | None = None, **more: str
) -> list[Path]:
  """Makes and writes the images; returns their paths, the grid's last.

  Args:
    model: the model.
    task: what to make.
    how: how to sample.
    start: the image to start from.
    more: the names of its files, for the parameters.
  """
  requests = [
    Request(prompt, task.negative, task.seed + i)
    for prompt in task.prompt
    for i in range(task.n)
  ]
  began = time.perf_counter()
  images = generate(model, how, requests, start, task.batch_size, task.progress)
  seconds = time.perf_counter() - began
  height, width = images.shape[1:3]
  how = dataclasses.replace(how, height=height, width=width)
  parameters = [describe(model, how, r, start) | more for r in requests]
  paths = files.save_images(task.out, images, parameters)
  print(f"{len(images)} images in {seconds:.1f} s: {paths[-1]}")
  return paths


def describe(
  model: Model, how: How, request: Request, start: Start | None = None
) -> dict[str, object]:
  """All that an image follows from, for its file."""
  height, width = how.size
  found: dict[str, object] = {
    **request._asdict(),
    "sampler": how.sampler,
    "steps": how.steps,
    "scale": how.scale,
    "size": f"{width}x{height}",
    "dtype": how.dtype,
    "vae_dtype": how.vae_dtype,
    "weights": model.name,
    "weights_sha256": model.digest,
    "jaxgen": jaxgen.__version__,
  }
  found |= {"eta": how.eta} if how.sampler == "ddim" else {}
  found |= {"karras": True} if how.karras else {}
  found |= {"tile": how.tile_above} if max(how.size) > how.tile_above else {}
  return found | ({"strength": start.strength} if start else {})
