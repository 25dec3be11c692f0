"""Figures that several experiments share."""

import json
from pathlib import Path

import numpy as np

from jaxgen.data import image_grid, save_png


def plot_loss(metrics: str | Path, path: str | Path) -> None:
  """The loss in metrics.jsonl against the step, with its running mean."""
  rows = read_metrics(metrics)
  if not rows:
    return
  steps = np.array([row["step"] for row in rows])
  losses = np.array([row["loss"] for row in rows])
  width = max(1, len(losses) // 20)
  smooth = np.convolve(losses, np.ones(width) / width, "valid")
  figure, axes = new_figure()
  axes.plot(steps, losses, color="0.8", linewidth=1)
  axes.plot(steps[width - 1 :], smooth, linewidth=2)
  # An adversarial loss may be negative.
  scale = "log" if (losses > 0).all() else "linear"
  axes.set(xlabel="step", ylabel="loss", yscale=scale)
  figure.savefig(path, dpi=120)


def read_metrics(path: str | Path) -> list[dict[str, float]]:
  """The lines of metrics.jsonl, but those of steps that were skipped."""
  rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
  return [row for row in rows if "loss" in row]


def new_figure(width: float = 5.0, height: float = 3.5):
  """A figure with one pair of axes, drawn without a display."""
  from matplotlib.figure import Figure

  figure = Figure((width, height), layout="constrained")
  axes = figure.add_subplot()
  axes.spines[["top", "right"]].set_visible(False)
  return figure, axes


def save_grid(
  path: str | Path, images: np.ndarray, columns: int, scale: int = 1
) -> None:
  """Images uint8 `[N, H, W, C]` as one PNG, enlarged `scale` times."""
  grid = image_grid(images, columns)
  save_png(path, grid.repeat(scale, 0).repeat(scale, 1))
