"""Figures of the replicas: accuracy over labels, and predicted images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tokenizers
from experiments.beit import model
from experiments.beit.config import Pretrain
from experiments.models import restore_run
from experiments.plots import new_figure, save_grid
from experiments.tokenizers import Tokenizer
from jaxgen import data
from jaxgen.masked import blockwise_mask
from jaxgen.types import Array, PyTree


def plot_curve(
  curve: Mapping[str, Mapping[str, Mapping[str, Any]]],
  path: Path,
  columns: Sequence[str],
  label: str = "",
) -> None:
  """Accuracy over what is on the x axis: all runs, and their means.

  Args:
    curve: tick of the x axis, in order, -> column -> {"mean", "runs"}.
    path: of the PNG.
    columns: what is compared.
    label: of the x axis.
  """
  figure, axes = new_figure()
  for column in columns:
    means = [values[column]["mean"] for values in curve.values()]
    (line,) = axes.plot(range(len(curve)), means, label=column)
    for i, values in enumerate(curve.values()):
      runs = values[column]["runs"]
      axes.plot([i] * len(runs), runs, "o", alpha=0.5, color=line.get_color())
  axes.set_xticks(range(len(curve)), list(curve))
  axes.set(xlabel=label, ylabel="top-1 accuracy, %")
  axes.legend(frameon=False)
  figure.savefig(path, dpi=120)


def draw_predictions(
  workdir: Path, split: str, path: Path, n: int = 8, seed: int = 0
) -> None:
  """Draws what a pre-trained network expects under a mask.

  Four rows: images; what the network sees, masked patches in grey; predicted
  tokens in the place of masked ones, decoded; the image's own tokens, decoded.

  Args:
    workdir: of `experiments.beit.pretrain`.
    split: of the images, which should be held out.
    path: of the PNG.
    n: images.
    seed: of the masks.
  """
  config, params = restore_run(workdir, Pretrain)
  tokenizer = tokenizers.load(config.tokenizer)
  source = data.load(config.dataset, split, config.data_dir or None)[:n]
  sizes = (config.image_size, tokenizer.factor * config.grid)
  x, second = (
    next(iter(data.eval_batches(source, len(source), size)))["image"]
    for size in sizes
  )
  rng = np.random.default_rng(seed)
  mask = np.stack([draw_mask(config, rng) for _ in source])
  rows = predict(config, tokenizer, params, x, second, mask)
  size = max(sizes)
  scaled = [data.to_uint8(row) for row in rows]
  scaled = [
    row.repeat(size // row.shape[1], 1).repeat(size // row.shape[2], 2)
    for row in scaled
  ]
  save_grid(path, np.concatenate(scaled), len(source), max(1, 64 // size))


def draw_mask(config: Pretrain, rng: np.random.Generator) -> np.ndarray:
  """A blockwise mask of as many patches as in training, `[grid, grid]`."""
  grid = (config.grid, config.grid)
  return blockwise_mask(
    rng, grid, config.num_masked, exact=True, min_block=config.min_block
  )


def predict(
  config: Pretrain,
  tokenizer: Tokenizer,
  params: PyTree,
  x: np.ndarray,
  second: np.ndarray,
  mask: np.ndarray,
) -> tuple[Array, Array, Array, Array]:
  """(images, masked images, predictions, reconstructions), in [-1, 1].

  Args:
    config: of the pre-training.
    tokenizer: whose tokens it predicts; can decode.
    params: of its network.
    x: images `[B, H, W, C]`.
    second: the same at the tokenizer's size.
    mask: `[B, grid, grid]`, True where a patch is masked.

  Raises:
    ValueError: the tokenizer cannot decode.
  """
  if tokenizer.decode is None:
    raise ValueError("predictions are drawn with a tokenizer that can decode")
  network = model.make_mim(config, tokenizer.vocabulary)
  flat = mask.reshape(len(mask), -1)

  @jax.jit
  def tokens_of(params: PyTree, frozen: PyTree, x: Array, second: Array):
    tokens = tokenizer.encode(frozen, second)
    seen = model.normalized(x, config.normalize)
    logits = jnp.asarray(network.apply({"params": params}, seen, flat))
    return tokens, jnp.where(flat, logits.argmax(-1), tokens)

  tokens, merged = tokens_of(params, tokenizer.params, x, second)
  decode = jax.jit(tokenizer.decode)
  p = config.patch_size
  hidden = mask.repeat(p, 1).repeat(p, 2)[..., None]
  return (
    jnp.asarray(x),
    jnp.where(hidden, 0.0, x),
    decode(tokenizer.params, merged),
    decode(tokenizer.params, tokens),
  )
