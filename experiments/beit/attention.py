"""Self-attention maps (Bao et al. 2022, Fig. 2): what a patch looks at.

  python -m experiments.beit.attention --weights runs/beit-mnist5k
  python -m experiments.beit.attention \\
    --weights beit_base_patch16_224_pt22k.pth --images DIRECTORY

For each image and each chosen patch: the weights with which the patch's query
takes the other patches' values in the last block, averaged over heads or of
each head. The paper shows that pre-training alone, without labels, tells
objects apart. WEIGHTS is a workdir of pre-training or fine-tuning, or a
published file; --images a folder of pictures, by default the test split of the
data set that the workdir was trained on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.beit import model
from experiments.beit.model import Pretrained
from experiments.cli import command_line
from jaxgen import data, training
from jaxgen.data.images import decode_image, to_unit
from jaxgen.types import Array, PyTree

SUFFIXES = (".png", ".jpg", ".jpeg")
_CELL = 112  # pixels of an image in the figure, at least


def attention_maps(
  pretrained: Pretrained, images: Array, block: int = -1
) -> Array:
  """softmax(q k^T / sqrt(d) + bias) of a block, without the class token.

  Args:
    pretrained: the backbone and its parameters.
    images: as the network takes them, `[B, H, W, C]`.
    block: from 0; -1 is the last.

  Returns:
    `[B, heads, h, w, h, w]`, float32: of the query at the first (h, w) the
    weight of the key at the second. They sum to 1 less what the class token
    gets.

  Raises:
    ValueError: there is no such block.
  """
  network = pretrained.backbone
  count = network.num_layers
  if not -count <= block < count:
    raise ValueError(f"block must lie in [{-count}, {count}), got {block}")

  @jax.jit
  def run(params: PyTree, images: Array) -> Any:
    _, kept = network.apply(
      {"params": params}, images, mutable=["intermediates"]
    )
    return kept["intermediates"][f"block_{block % count}"]["attn"]["weights"]

  (weights,) = run(pretrained.params, images)
  h, w = (n // network.patch_size for n in images.shape[1:3])
  return weights[:, :, 1:, 1:].reshape(*weights.shape[:2], h, w, h, w)


def heat(weights: np.ndarray) -> np.ndarray:
  """Weights `[..., h, w]` as colours `[..., h, w, 3]`, uint8.

  Black, red, yellow, white; each map's largest weight is white.
  """
  largest = weights.max((-2, -1), keepdims=True)
  x = 3 * weights[..., None] / np.maximum(largest, 1e-30)[..., None]
  return np.rint(255 * (x - np.arange(3)).clip(0, 1)).astype(np.uint8)


def figure(
  images: np.ndarray, maps: np.ndarray, queries: Sequence[tuple[int, int]]
) -> np.ndarray:
  """One row for each image and query: the image with the query, its maps.

  Args:
    images: uint8 `[B, H, W, C]`.
    maps: `[B, M, h, w, h, w]`, M maps for each query.
    queries: rows and columns of patches.

  Returns:
    uint8 `[height, width, 3]`.
  """
  patch = images.shape[1] // maps.shape[2]
  scale = max(1, -(-_CELL // images.shape[1]))
  rows = []
  for image, found in zip(images, maps, strict=True):
    for y, x in queries:
      marked = np.array(np.broadcast_to(image, (*image.shape[:2], 3)))
      frame = marked[y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
      inside = frame[1:-1, 1:-1].copy()
      frame[:] = (255, 0, 0)
      frame[1:-1, 1:-1] = inside
      cells = heat(found[:, y, x]).repeat(patch, 1).repeat(patch, 2)
      rows.append(np.concatenate([marked[None], cells]))
  cells = np.concatenate(rows)
  cells = cells.repeat(scale, 1).repeat(scale, 2)
  return data.image_grid(cells, columns=1 + maps.shape[1])


def open_images(
  pretrained: Pretrained, weights: str, images: str, n: int
) -> np.ndarray:
  """The first n images, uint8 `[n, H, W, C]`, of a folder or a data set.

  Raises:
    ValueError: there are no images, or none is named for a file.
  """
  channels = pretrained.params["patch_embed"]["kernel"].shape[2]
  if images:
    files = sorted(
      path for path in Path(images).iterdir() if path.suffix in SUFFIXES
    )
    found = [decode_image(path.read_bytes(), channels) for path in files[:n]]
  elif (Path(weights) / "checkpoints").is_dir():
    saved = training.restore_experiment(Path(weights) / "checkpoints")
    data_dir = saved.get("data_dir") or None
    source = data.load(
      saved["dataset"], saved.get("test_split", "test"), data_dir
    )
    step = max(1, len(source) // n)
    chosen = range(0, len(source), step)[:n]
    found = [source[i]["image"] for i in chosen]
  else:
    raise ValueError(f"{weights} is a file, which needs --images DIRECTORY")
  if not found:
    raise ValueError(f"{images} has no images of {', '.join(SUFFIXES)}")
  size = pretrained.image_size
  return np.stack([data.center_crop_resize(image, size) for image in found])


def chosen_queries(
  queries: Sequence[tuple[int, int]], grid: int
) -> list[tuple[int, int]]:
  """The patches asked for; three on the diagonal by default.

  Raises:
    ValueError: one is outside of the grid.
  """
  ends = (grid // 3, grid // 2, grid - 1 - grid // 3)
  chosen = [(y, x) for y, x in queries or zip(ends, ends, strict=True)]
  for y, x in chosen:
    if not (0 <= y < grid and 0 <= x < grid):
      raise ValueError(
        f"a query lies in the grid of {grid} x {grid} patches, got ({y}, {x})"
      )
  return chosen


def main(
  weights: str,
  images: str = "",
  n: int = 4,
  query: tuple[tuple[int, int], ...] = (),
  block: int = -1,
  heads: bool = False,
  out: str = "runs/beit-attention.png",
) -> None:
  """Draws attention maps.

  Args:
    weights: a workdir of pre-training or fine-tuning, or a published file.
    images: a folder of pictures; the data set of a workdir if empty.
    n: how many images.
    query: rows and columns of patches that ask; three if none is given.
    block: whose attention, from 0; -1 is the last.
    heads: a map for each head instead of their mean.
    out: the picture.
  """
  pretrained = model.load(weights)
  shown = open_images(pretrained, weights, images, n)
  kind = pretrained.normalize or "imagenet"
  x = model.normalized(jnp.asarray(to_unit(shown)), kind)
  maps = np.asarray(attention_maps(pretrained, x, block))
  if not heads:
    maps = maps.mean(1, keepdims=True)
  queries = chosen_queries(query, maps.shape[2])
  data.save_png(out, figure(shown, maps, queries))
  print(f"saved: {out}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
