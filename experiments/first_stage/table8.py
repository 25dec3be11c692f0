"""LDM Table 8: how well first stages reconstruct images.

  python -m experiments.first_stage.table8 --weights kl-f8:model.ckpt \\
    vq-f4:vq-f4/model.ckpt --lpips DIR
  python -m experiments.first_stage.table8 --weights runs/mnist5k_kl_f4 \\
    runs/mnist5k_vq_f4

Of every autoencoder, a workdir of `train` or published weights, it measures
the FID and the IS of the reconstructions of the test split against the test
split itself, and means over its images of PSNR, SSIM and, with --lpips, PSIM;
all of 8-bit images. The paper's are of ImageNet's validation images, 256 x 256.
It does not say what its PSIM and its SSIM are exactly: ours are LPIPS 0.1 with
VGG16, and the SSIM of Wang et al. 2004 on every colour.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro
from jax.tree_util import Partial

from experiments import results
from experiments.cli import command_line
from experiments.evaluate import (
  DEFAULT_SCORING,
  Scoring,
  Yardstick,
  cell,
  make_yardstick,
)
from experiments.first_stage import model, reconstruction
from experiments.first_stage.config import CONFIGS, Config
from experiments.plots import save_grid
from experiments.results import Claim, Result, Row

TITLE = "LDM Table 8 (reconstruction)"
COLUMNS = ("R-FID", "R-IS", "PSNR", "PSIM", "SSIM")
_PAPER = {
  "vq-f32": ("31.83", "40.40", "17.45", "2.58", "0.41"),
  "vq-f16": ("5.15", "144.55", "20.83", "1.73", "0.54"),
  "vq-f8": ("1.14", "201.92", "23.07", "1.17", "0.65"),
  "vq-f8-n256": ("1.49", "194.20", "22.35", "1.26", "0.62"),
  "vq-f4": ("0.58", "224.78", "27.43", "0.53", "0.82"),
  "vq-f4-noattn": ("1.06", "221.94", "25.21", "0.72", "0.76"),
  "vq-f4-n256": ("0.47", "223.81", "26.43", "0.62", "0.80"),
  "vq-f2": ("0.16", "232.75", "30.85", "0.27", "0.91"),
  "vq-f2-n64": ("0.40", "226.62", "29.13", "0.38", "0.90"),
  "kl-f32": ("2.04", "189.53", "22.27", "1.41", "0.61"),
  "kl-f32-c16": ("7.3", "132.75", "20.38", "1.88", "0.53"),
  "kl-f16": ("0.87", "210.31", "24.08", "1.07", "0.68"),
  "kl-f16-c8": ("2.63", "178.68", "21.94", "1.49", "0.59"),
  "kl-f8": ("0.90", "209.90", "24.19", "1.02", "0.69"),
  "kl-f4": ("0.27", "227.57", "27.53", "0.55", "0.82"),
  "kl-f2": ("0.086", "232.66", "32.47", "0.20", "0.93"),
}


def _command(row: str) -> str:
  return f"python -m experiments.first_stage.table8 --weights runs/{row}"


ROWS = tuple(
  Row(name, dict(zip(COLUMNS, numbers, strict=True)), _command(name))
  for name, numbers in _PAPER.items()
)


def _describe(name: str) -> str:
  config = CONFIGS[name]
  codes = f"|Z| = {config.num_codes}, " if config.num_codes else ""
  return f"{name} {codes}c = {config.z_channels}"


NOTE = (
  "\nRows are named as the released files, f being how much smaller the latent "
  f"is: {'; '.join(_describe(name) for name in _PAPER)}. A model of other |Z| "
  "and c stands in the row of its kind and f.\n"
)


def _claim(text: str, low: str, high: str, column: str = "R-FID") -> Claim:
  return Claim(f"{text}: {low}, {high}", (low, column), (high, column))


CLAIMS = (
  *(
    _claim("smaller f, lower FID", low, high)
    for low, high in (
      ("kl-f2", "kl-f4"),
      ("kl-f4", "kl-f8"),
      ("kl-f16", "kl-f32"),
      ("vq-f2", "vq-f4"),
      ("vq-f4", "vq-f8"),
      ("vq-f8", "vq-f16"),
      ("vq-f16", "vq-f32"),
    )
  ),
  *(
    _claim("larger f, lower PSNR", low, high, "PSNR")
    for low, high in (
      ("kl-f4", "kl-f2"),
      ("kl-f8", "kl-f4"),
      ("kl-f32", "kl-f16"),
      ("vq-f4", "vq-f2"),
      ("vq-f8", "vq-f4"),
      ("vq-f16", "vq-f8"),
      ("vq-f32", "vq-f16"),
    )
  ),
  *(
    _claim("a KL divergence, not a codebook, lowers FID", low, high)
    for low, high in (
      ("kl-f4", "vq-f4"),
      ("kl-f4", "vq-f4-n256"),
      ("kl-f8", "vq-f8"),
      ("kl-f16", "vq-f16"),
    )
  ),
  _claim("more channels lower FID", "kl-f16", "kl-f16-c8"),
  _claim("more channels lower FID", "kl-f32", "kl-f32-c16"),
  _claim("more codes lower FID", "vq-f8", "vq-f8-n256"),
  _claim("fewer codes lower PSNR", "vq-f4-n256", "vq-f4", "PSNR"),
  _claim("attention lowers FID", "vq-f4", "vq-f4-noattn"),
)


def row_name(config: Config) -> str:
  """The row of Table 8 that an autoencoder belongs to.

  Raises:
    ValueError: the table has none of its kind and f.
  """
  if config.name in _PAPER:
    return config.name
  kind = f"{'vq' if config.num_codes else 'kl'}-f{config.f}"
  if kind not in _PAPER:
    raise ValueError(
      f"LDM Table 8 has no row {kind}, which {config.name} would belong to"
    )
  special = f"{kind}-n{config.num_codes}"
  return special if special in _PAPER else kind


def make_reference(config: Config, scoring: Scoring) -> Yardstick:
  """The yardstick: the split that is reconstructed, unless another is named."""
  judged_by = config.test_dataset or config.dataset
  return make_yardstick(
    dataclasses.replace(config, dataset=judged_by, split=config.test_split),
    scoring,
  )


def measure(
  weights: model.Weights,
  scoring: Scoring,
  n: int = 0,
  batch_size: int = 64,
  lpips: Partial | None = None,
) -> tuple[Result, reconstruction.Judgement]:
  """The result of one autoencoder, and all that was found.

  Args:
    weights: configuration, network and parameters.
    scoring: the protocol of FID.
    n: the first n images; all if 0.
    batch_size: images at a time.
    lpips: for PSIM, of images of three channels.
  """
  timer = results.Timer()
  config = weights[0]
  row = row_name(config)
  images = reconstruction.Images(config, n)
  found = reconstruction.judge(
    weights, images, make_reference(config, scoring), batch_size, lpips
  )
  fid, score = found.scores["FID"], found.scores.get("IS")
  ours, values = {"R-FID": cell(fid)}, {"R-FID": fid.value}
  if score is not None:
    ours["R-IS"], values["R-IS"] = cell(score), score.value
  for name, digits in (("PSNR", 2), ("PSIM", 3), ("SSIM", 3)):
    if name in found.values:
      mean, spread = found.values[name], found.spread[name]
      ours[name], values[name] = f"{mean:.{digits}f} ± {spread:.2g}", mean
  values |= {k: v for k, v in found.values.items() if k not in COLUMNS}
  result = Result(
    TITLE,
    row,
    ours,
    values,
    model.record(config),
    "; ".join(describe(config, found, len(images))),
    timer.seconds(),
    {name: dataclasses.asdict(s) for name, s in found.scores.items()},
  )
  return result, found


def describe(
  config: Config, found: reconstruction.Judgement, n: int
) -> list[str]:
  """The protocol in words, with the state of codebook or posterior."""
  source = f"{config.test_dataset or config.dataset}:{config.test_split}"
  lpips = f"LPIPS of {Path(config.lpips).name}"
  words = [
    f"{config.steps} steps of {config.batch_size}",
    f"first {n} images of {source}",
    "one sample of the posterior" if not config.num_codes else "",
    f"trained with {lpips if config.lpips else 'the pyramid distance'}",
  ]
  if config.num_codes:
    used, perplexity = found.values["used"], found.values["perplexity"]
    words.append(f"{used:.0%} of codes used, perplexity {perplexity:.4g}")
  else:
    words.append(f"KL {found.values['kl']:.4g} nats an image")
  return [word for word in (*words, found.collapse) if word]


def main(
  weights: Sequence[str],
  scoring: tyro.conf.OmitArgPrefixes[Scoring] = DEFAULT_SCORING,
  n: int = 0,
  batch_size: int = 64,
  lpips: str = "",
  out: str = "runs/ldm-table8",
) -> None:
  """Measures autoencoders.

  Args:
    weights: workdirs, or NAME:PATH of published weights.
    scoring: the protocol of FID.
    n: the first n images of the test split; all if 0.
    batch_size: images at a time.
    lpips: published weights of LPIPS, for PSIM; see
      `experiments.first_stage.model.load_lpips`.
    out: directory for the results.
  """
  measured: list[Result] = []
  for name in weights:
    loaded = model.load(name)
    distance = None
    if lpips:
      distance = model.make_perceptual(
        dataclasses.replace(loaded[0], lpips=lpips)
      )
    result, found = measure(loaded, scoring, n, batch_size, distance)
    path = results.save(result, out)
    grid = reconstruction.grid(found.shown)
    scale = max(1, 64 // loaded[0].image_size)
    save_grid(path.with_suffix(".png"), grid, columns=8, scale=scale)
    print(f"saved: {path}, .png: images, each above its reconstruction")
    if found.collapse:
      print(f"{name}: {found.collapse}")
    measured.append(result)
  text = results.table(TITLE, ROWS, measured)
  text += results.claims(TITLE, CLAIMS, measured) + NOTE
  (Path(out) / "table8.md").write_text(text)
  print(text)
  print(f"saved: {Path(out) / 'table8.md'}")


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
