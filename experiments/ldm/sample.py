"""Samples a trained or released latent diffusion model.

  python -m experiments.ldm.sample --weights experiments/ldm/weights/openmoji \\
    --prompt "red heart" "yellow apple" --guidance 3
  python -m experiments.ldm.sample --weights runs/openmoji-txt2img \\
    --prompt "grinning cat"
  python -m experiments.ldm.sample --weights cin256:model.ckpt --label 88 \\
    --guidance 1.5 --steps 250 --eta 1
  python -m experiments.ldm.sample --weights txt2img:model.ckpt \\
    --vocab vocab.txt --prompt "a sunset" --guidance 5
  python -m experiments.ldm.sample --weights layout2img:model.ckpt \\
    --boxes boxes.json
  python -m experiments.ldm.sample --weights super_resolution:model.ckpt \\
    --images small/
  python -m experiments.ldm.sample --weights inpainting_big:last.ckpt \\
    --images images/ --masks masks/

Released files are named after the configurations of `experiments.ldm.configs`.
boxes.json is a list with a list of boxes [class, x0, y0, x1, y1] for each
image, coordinates from 0 to 1. Masks are white in the hole; the result keeps
the image outside. A segmentation is an .npz whose arr_0 is `[N, H, W]`.

The default is the release's DDIM, which ends at the first noise level.
"""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro

from experiments import models
from experiments.cli import command_line
from experiments.ldm import conditions
from experiments.ldm.config import Config
from experiments.ldm.files import TOKENIZER
from experiments.ldm.layout import layout_tokens
from experiments.models import Model
from experiments.plots import save_grid
from experiments.sampling import Sampling, generate, make_draw
from jaxgen import data
from jaxgen.metrics import files

DEFAULT = Sampling("ddim", 50, "ldm")


@dataclasses.dataclass(frozen=True)
class Given:
  """What the images depend on.

  Attributes:
    prompt: texts.
    boxes: a JSON file.
    images: to enlarge, or with holes to fill: a folder of PNGs or an .npz.
    masks: of the holes, of the images' size, in the same order.
    segmentation: an .npz.
    vocab: bert-base-uncased's vocab.txt, for the texts of a released model.
  """

  prompt: tuple[str, ...] = ()
  boxes: str = ""
  images: str = ""
  masks: str = ""
  segmentation: str = ""
  vocab: str = ""


NOTHING = Given()
# The option that a kind of condition is given by.
OPTIONS = {
  "text": ("prompt",),
  "boxes": ("boxes",),
  "segmentation": ("segmentation",),
  "low_res": ("images",),
  "mask": ("images", "masks"),
}


def read_condition(
  config: Config, given: Given, workdir: Path
) -> np.ndarray | None:
  """The conditions that a user gave, one a row; None for a class or nothing.

  Args:
    config: of the model.
    given: by the user.
    workdir: with the tokenizer of a trained model.

  Raises:
    FileNotFoundError: there is no such file, or no tokenizer.
    ValueError: what the model needs is not given, something else is, or it has
      another shape.
  """
  wanted = OPTIONS.get(config.condition, ())
  for name in ("prompt", "boxes", "segmentation", "images", "masks"):
    if bool(getattr(given, name)) != (name in wanted):
      needs = "needs" if name in wanted else "takes no"
      raise ValueError(
        f"{config.name}, with condition {config.condition!r}, {needs} --{name}"
      )
  if not wanted:
    return None
  if config.condition == "text":
    condition = _texts(config, given, workdir)
  elif config.condition == "boxes":
    sizes = (config.max_length, config.vocab_size)
    lists = json.loads(Path(given.boxes).read_text())
    condition = np.stack([layout_tokens(boxes, *sizes) for boxes in lists])
  elif config.condition == "segmentation":
    with np.load(given.segmentation, allow_pickle=False) as arrays:
      condition = arrays["arr_0"]
  else:
    condition = _read(given.images, config.image_channels)
    if config.condition == "mask":
      holes = _read(given.masks, 1)[..., 0] > 0
      hole = conditions.with_hole(jnp.asarray(condition), jnp.asarray(holes))
      condition = np.asarray(hole)
  conditions.check(config, condition)
  return condition


def _texts(config: Config, given: Given, workdir: Path) -> np.ndarray:
  """The tokens of the prompts."""
  path = workdir / TOKENIZER
  if path.is_file():
    return data.load_tokenizer(path)(given.prompt)
  if not given.vocab:
    raise FileNotFoundError(
      f"{config.name} needs --vocab, bert-base-uncased's vocab.txt, for its "
      f"prompts: there is no {path}"
    )
  return data.bert_tokenizer(given.vocab, config.max_length)(given.prompt)


def _read(path: str, channels: int) -> np.ndarray:
  """Images in [-1, 1]."""
  images = files.open_images(path, channels)
  return data.to_unit(np.stack([images[i] for i in range(len(images))]))


def keep_outside(images: np.ndarray, condition: np.ndarray) -> np.ndarray:
  """uint8 images, outside the holes those that the condition has."""
  hole = condition[..., -1:] > 0
  return np.where(hole, images, data.to_uint8(condition[..., :-1]))


def draw_images(
  model: Model,
  how: Sampling,
  condition: np.ndarray | None,
  n: int,
  seed: int = 0,
  batch_size: int = 64,
) -> np.ndarray:
  """n uint8 images of each condition, one after the other; or n of none."""
  rows = None
  if condition is not None:
    rows = {"label": np.repeat(condition, n, axis=0)}
    n = len(rows["label"])
  images = generate(
    make_draw(model, how), model.params, n, seed, batch_size, how.sampler, rows
  )
  if rows is not None and model.config.condition == "mask":
    images = keep_outside(images, rows["label"])
  return images


def main(
  weights: str,
  given: tyro.conf.OmitArgPrefixes[Given] = NOTHING,
  how: tyro.conf.OmitArgPrefixes[Sampling] = DEFAULT,
  n: int = 8,
  batch_size: int = 64,
  seed: int = 0,
  out: str = "runs/samples",
) -> None:
  """Writes samples.npz (uint8) and grid.png, a row for each condition.

  Args:
    weights: a workdir, a folder of `experiments.ldm.export`, or NAME:PATH of a
      released file.
    given: what the images depend on.
    how: the sampler.
    n: images of each text, layout or image.
    batch_size: images at a time.
    seed: of the noise.
    out: directory for the results.
  """
  model = models.load(weights)
  if model.decode is None:
    raise ValueError(f"{weights} is no latent diffusion model")
  condition = read_condition(model.config, given, Path(weights))
  images = draw_images(model, how, condition, n, seed, batch_size)
  directory = Path(out)
  directory.mkdir(parents=True, exist_ok=True)
  np.savez(directory / "samples.npz", images)
  columns = 8 if condition is None else n
  save_grid(directory / "grid.png", images[: 8 * columns], columns)
  print(
    f"{len(images)} samples: {directory / 'grid.png'}, "
    f"{directory / 'samples.npz'}"
  )


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
