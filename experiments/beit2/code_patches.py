"""Draws what the codes of a tokenizer stand for: patches that share a code.

  python -m experiments.beit2.code_patches runs/vqkd-mnist5k
  python -m experiments.beit2.code_patches FILE --dataset imagenet2012 \\
    --split validation --size 224

As in the figures of Peng et al. 2022. Each row is a code, each cell a patch of
another image of the test split, in a frame, with its neighbourhood. Rows go
from the code that most images have to rarer ones.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tyro

from experiments import tokenizers
from experiments.beit2 import vqkd_model
from experiments.cli import command_line
from experiments.plots import save_grid
from experiments.tokenizers import Tokenizer
from jaxgen import data
from jaxgen.data import transforms


def encode(
  tokenizer: Tokenizer, source: Sequence, size: int, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
  """Centres of images, uint8 `[n, size, size, C]`, and tokens `[n, h, w]`."""
  of = jax.jit(tokenizer.encode)
  crop = lambda example: {
    "image": transforms.eval_crop(example["image"], size, 1.0)
  }
  images, tokens = [], []
  for batch in data.eval_batches(source, batch_size, size, transform=crop):
    found = np.asarray(of(tokenizer.params, batch["image"]))[batch["mask"]]
    images.append(data.to_uint8(batch["image"][batch["mask"]]))
    tokens.append(found)
  grid = size // tokenizer.factor
  return np.concatenate(images), np.concatenate(tokens).reshape(-1, grid, grid)


def examples(
  tokens: np.ndarray, code: int, n: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
  """Up to n patches (image, row, column) with a code, of different images."""
  has = np.flatnonzero((tokens == code).any((1, 2)))
  found = []
  for i in rng.permutation(has)[:n]:
    places = np.argwhere(tokens[i] == code)
    row, column = places[rng.integers(len(places))].tolist()
    found.append((int(i), row, column))
  return found


def choose(tokens: np.ndarray, num_codes: int, n: int, least: int) -> list[int]:
  """n codes that at least so many images have, from common to rare."""
  occurring = np.concatenate([np.unique(image) for image in tokens])
  images = np.bincount(occurring, minlength=num_codes)
  ranked = [int(k) for k in np.argsort(-images) if images[k] >= least]
  places = np.linspace(0, len(ranked) - 1, min(n, len(ranked)))
  return [ranked[round(p)] for p in places]


def window(
  image: np.ndarray, row: int, column: int, patch: int, scale: int
) -> np.ndarray:
  """A patch in a red frame, with its neighbours, in colour.

  Args:
    image: uint8 `[H, W, C]`.
    row: of the patch.
    column: of the patch.
    patch: its height and width in pixels.
    scale: by which pixels are enlarged.

  Returns:
    `[3 patch scale, 3 patch scale, 3]`; grey outside of the image.
  """
  padded = np.pad(
    image, ((patch, patch), (patch, patch), (0, 0)), constant_values=128
  )
  top, left = row * patch, column * patch
  shown = padded[top : top + 3 * patch, left : left + 3 * patch]
  shown = np.broadcast_to(shown, (*shown.shape[:2], 3))
  shown = shown.repeat(scale, 0).repeat(scale, 1)
  first, last = patch * scale - 1, 2 * patch * scale
  for line in (first, last):
    shown[line, first : last + 1] = (255, 0, 0)
    shown[first : last + 1, line] = (255, 0, 0)
  return shown


def draw(
  tokenizer: Tokenizer,
  images: np.ndarray,
  tokens: np.ndarray,
  shape: tuple[int, int],
  path: Path,
  seed: int = 0,
) -> list[int]:
  """Saves the picture; the codes of its rows.

  Args:
    tokenizer: whose tokens they are.
    images: uint8 `[n, H, W, C]`.
    tokens: `[n, h, w]`.
    shape: rows, of codes, and columns, of patches.
    path: of the PNG.
    seed: of the patches that are shown.

  Raises:
    ValueError: no code is in so many images as there are columns.
  """
  rows, columns = shape
  codes = choose(tokens, tokenizer.vocabulary, rows, columns)
  if not codes:
    raise ValueError(
      f"none of {tokenizer.vocabulary} codes is in {columns} of {len(images)} "
      "images: take fewer columns"
    )
  rng = np.random.default_rng(seed)
  patch = tokenizer.factor
  scale = max(1, 16 // patch)
  cells = []
  for code in codes:
    for i, row, column in examples(tokens, code, columns, rng):
      cells.append(window(images[i], row, column, patch, scale))
  save_grid(path, np.stack(cells), columns)
  return codes


def main(
  weights: tyro.conf.Positional[str],
  dataset: str = "",
  split: str = "",
  size: int = 0,
  data_dir: str = "",
  n: int = 2000,
  shape: tuple[int, int] = (12, 12),
  out: str = "",
) -> None:
  """Draws the codes of a tokenizer.

  Args:
    weights: a workdir of `train_vqkd`, or a released file.
    dataset: name for `jaxgen.data.load`; by default that of the training, as
      are split and size.
    split: of the images.
    size: height and width of the images.
    data_dir: where TFDS keeps data sets; its own default if empty.
    n: images that are looked at.
    shape: codes, and patches of each.
    out: path of the PNG; codes.png in the workdir by default.

  Raises:
    ValueError: a released file was named without data set, split and size.
  """
  if (Path(weights) / "checkpoints").is_dir():
    config = vqkd_model.restore(Path(weights))[0]
    dataset, split = dataset or config.dataset, split or config.test_split
    size, out = size or config.image_size, out or f"{weights}/codes.png"
  if not (dataset and split and size):
    raise ValueError(
      f"{weights} is a file: name its --dataset, --split and --size"
    )
  tokenizer = tokenizers.load(weights)
  source = data.load(dataset, split, data_dir or None)[:n]
  images, tokens = encode(tokenizer, source, size)
  path = Path(out or "codes.png")
  codes = draw(tokenizer, images, tokens, shape, path)
  print(f"codes {', '.join(map(str, codes))} of {dataset}:{split}")
  print(f"saved: {path}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
