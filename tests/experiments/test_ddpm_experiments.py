"""Scripts of experiments/ddpm run, tiny; configurations are the paper's."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import evaluate, results
from experiments.ddim import sampling as ways
from experiments.ddim import table1 as ddim_table1
from experiments.ddim import table2 as ddim_table2
from experiments.ddpm import figures, model, sample, table1, table2
from experiments.ddpm.config import CONFIGS, Config
from experiments.ddpm.train import train
from experiments.sampling import Sampling, generate, make_draw
from jaxgen import training
from jaxgen.convert import ddpm as published
from jaxgen.metrics.protocol import from_dict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """One smoke run that the scripts below read."""
  directory = tmp_path_factory.mktemp("ddpm")
  config = CONFIGS["mnist5k"]
  return train(dataclasses.replace(config, workdir=str(directory), smoke=True))


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("cifar10", 35_746_307),
    ("celebahq256", 113_673_219),
    ("lsun_bedroom", 113_673_219),
    ("lsun_bedroom_large", 255_677_955),
    ("lsun_church", 113_673_219),
    ("lsun_cat", 113_673_219),
    ("celeba64", 78_700_803),
  ],
)
def test_configurations_are_the_papers(name, count):
  """Parameters as published; App. B's optimiser and schedule."""
  config = CONFIGS[name]
  unet = model.make_unet(config)
  shapes = jax.eval_shape(
    lambda key: model.init_params(config, unet, key), jax.random.key(0)
  )
  assert sum(s.size for s in jax.tree.leaves(shapes)) == count
  assert (config.T, config.beta_start, config.beta_end) == (1000, 1e-4, 0.02)
  small = config.image_size < 256
  assert config.lr == (2e-4 if small else 2e-5)
  assert config.batch_size == (128 if small else 64)
  assert config.dropout == (0.1 if small else 0.0)
  assert config.ema_decay == 0.9999
  # DDIM trained CelebA, without warm-up.
  assert config.warmup_steps == (0 if name == "celeba64" else 5000)
  assert config.flip != name.startswith("lsun_bedroom")


def test_a_run_leaves_its_files(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
  assert (workdir / "loss.png").stat().st_size > 1000
  assert (workdir / "checkpoints" / "6").is_dir()


def test_another_experiment_is_refused(workdir):
  other = dataclasses.replace(
    CONFIGS["mnist5k"], workdir=str(workdir), smoke=True, target="x_0"
  )
  with pytest.raises(ValueError, match="another experiment: target"):
    train(other)
  assert (workdir / "checkpoints" / "6").is_dir()


def test_image_i_does_not_depend_on_the_batch(workdir):
  config, unet, params = model.load(str(workdir))
  draw = make_draw(model.as_model(config, unet, params), Sampling("ddpm", 5))
  one = generate(draw, params, 20, batch_size=8)
  other = generate(draw, params, 11, batch_size=16)
  assert one.shape == (20, 28, 28, 1)
  assert np.abs(one[:11].astype(int) - other.astype(int)).max() <= 1


def test_sampling_a_workdir(workdir, tmp_path):
  how = Sampling("ddim", 4, eta=0.5)
  sample.main(str(workdir), how, n=8, batch_size=8, out=str(tmp_path))
  assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (8, 28, 28, 1)
  assert (tmp_path / "grid.png").exists()


def test_sampling_published_weights(tmp_path):
  """Written in the layout of google/ddpm-*, read back, sampled."""
  unet = model.make_unet(
    dataclasses.replace(
      Config(),
      channels=32,
      channel_mult=(1, 1),
      num_res_blocks=1,
      attention_resolutions=(16,),
    )
  )
  params = model.init_params(Config(), unet, jax.random.key(0))
  published.save(tmp_path / "weights", params, unet, image_size=32)
  sample.main(
    str(tmp_path / "weights"),
    Sampling("ddpm", 3),
    n=8,
    batch_size=8,
    out=str(tmp_path),
  )
  assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (8, 32, 32, 3)


@pytest.mark.slow
def test_table_1(workdir, tmp_path, capsys):
  table1.main(
    str(workdir), n=8, num_samples=16, sampling_batch=8, out=str(tmp_path)
  )
  printed = capsys.readouterr().out
  assert "| L_simple | 9.46 ± 0.11 | 3.17 | ≤ 3.75 | 3.72 |" in printed
  (path,) = tmp_path.glob("*.json")
  result = results.Result(**json.loads(path.read_text()))
  assert result.ours["NLL test"].startswith("≤ ")
  assert result.ours["FID"].endswith(" (mnist5k-cnn)")
  assert from_dict(result.scores["FID"]).protocol.n == 16
  assert path.with_suffix(".png").exists()


def test_a_checkpoint_is_scored(workdir, tmp_path):
  evaluate.main(
    weights=str(workdir),
    how=Sampling("ddim", 2),
    scoring=evaluate.Scoring(reference="mnist5k:test[:20]", truncate=True),
    n=12,
    sampling_batch=8,
    out=str(tmp_path),
  )
  content = json.loads((tmp_path / "scores.json").read_text())
  fid = from_dict(content["scores"]["FID"])
  assert fid.protocol.rounding == "truncate"
  assert fid.seeds == "(0, 0) to (0, 11)"
  names = {path.name for path in (tmp_path / "images").iterdir()}
  assert names == {"run.json", "images-000000.npz", "images-000008.npz"}


@pytest.mark.slow
def test_table_2(tmp_path, capsys):
  """The first row: learned variance, under the bound."""
  config = dataclasses.replace(
    CONFIGS["mnist5k"], workdir=str(tmp_path), smoke=True
  )
  sizes = table2.Sizes(bound_images=8, samples=16, sampling_batch=8)
  table = table2.Table(config, sizes=sizes)
  table2.main(table, rows=table2.ROWS[:1])
  assert len(list(tmp_path.glob("*.json"))) == 1
  assert "L, learned diagonal | 7.28 ± 0.10 | 23.69" in capsys.readouterr().out


@pytest.mark.slow
def test_ddim_tables(workdir, tmp_path, capsys):
  ddim_table1.main(
    str(workdir),
    n=12,
    sampling_batch=12,
    etas=("0.0", "sigma-hat"),
    steps=(10,),
    out=str(tmp_path / "1"),
  )
  assert (tmp_path / "1" / "table1.png").exists()
  text = (tmp_path / "1" / "table1.md").read_text()
  assert "| cifar10, eta = 0.0 | 13.36 |" in text
  assert "sigma-hat is worst at S = 10: mnist5k: **" not in text
  ddim_table2.main(str(workdir), n=4, steps=(20,), out=str(tmp_path / "2"))
  printed = capsys.readouterr().out
  assert "| .014 | .0065 |" in printed
  (path,) = (tmp_path / "2").glob("*.json")
  assert json.loads(path.read_text())["values"]["S = 20"] >= 0


def test_ddims_ways_to_sample():
  """tau of App. D.2; sigma-hat is the ancestral step with DDPM's beta."""
  assert ways.sampling(CONFIGS["cifar10"], 10, "0.5") == Sampling(
    "ddim", 10, "quadratic", eta=0.5, clip=False
  )
  assert ways.sampling(CONFIGS["celeba64"], 10, "0.0").grid == "uniform"
  assert ways.sampling(CONFIGS["cifar10"], 1000, "0.0").grid == "even"
  noisy = ways.sampling(CONFIGS["celeba64"], 20, "sigma-hat")
  assert (noisy.sampler, noisy.variance, noisy.clip) == ("ddpm", "large", True)


@pytest.mark.slow
def test_figures(workdir, tmp_path):
  figures.main(str(workdir), rows=2, columns=3, out=str(tmp_path))
  names = {path.name for path in tmp_path.iterdir()}
  assert {"progressive.png", "shared.png", "interpolation.png"} <= names
  rows = json.loads((tmp_path / "rate_distortion.json").read_text())
  rates = [row["rate"] for row in rows]
  assert rates[0] == 0.0  # nothing sent yet at t = T
  assert rates == sorted(rates)


def command(*arguments, **environment):
  return subprocess.run(
    [sys.executable, "-m", *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    check=False,
  )


def losses(directory):
  lines = (Path(directory) / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["loss"] for line in lines]


def test_a_run_continues_bit_for_bit(workdir, tmp_path):
  """From the third of its six steps."""
  shutil.copytree(workdir, tmp_path / "run")
  shutil.rmtree(tmp_path / "run/checkpoints/6")
  config = CONFIGS["mnist5k"]
  train(dataclasses.replace(config, workdir=str(tmp_path / "run"), smoke=True))
  found, whole = (
    (path / "metrics.jsonl").read_text() for path in (tmp_path / "run", workdir)
  )
  assert found == whole


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(workdir, tmp_path):
  """SIGKILL at the first logged step, then the same command again."""
  arguments = ["experiments.ddpm.train", "mnist5k", "--smoke", "--workdir"]
  arguments += [str(tmp_path)]
  environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
  with subprocess.Popen(
    [sys.executable, "-m", *arguments], cwd=ROOT, env=environment
  ) as process:
    metrics = tmp_path / "metrics.jsonl"
    while process.poll() is None and not (
      metrics.exists() and metrics.stat().st_size
    ):
      time.sleep(0.01)
    process.kill()
  done = command(*arguments, JAX_NUM_CPU_DEVICES="8")
  assert done.returncode == 0, done.stderr
  assert metrics.read_text() == (workdir / "metrics.jsonl").read_text()


def test_losses_on_one_device_and_on_eight(workdir, tmp_path, monkeypatch):
  one = functools.partial(training.make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(training, "make_mesh", one)
  config = CONFIGS["mnist5k"]
  train(dataclasses.replace(config, workdir=str(tmp_path), smoke=True))
  np.testing.assert_allclose(losses(tmp_path), losses(workdir), rtol=1e-5)


def test_unknown_fields_and_missing_weights_are_one_sentence(tmp_path):
  done = command("experiments.ddpm.train", "mnist5k", "--lerning-rate", "1")
  assert done.returncode == 2
  assert "Unrecognized" in done.stderr
  assert "Traceback" not in done.stderr
  done = command("experiments.ddpm.sample", "--weights", str(tmp_path / "none"))
  assert done.returncode == 1
  assert done.stderr.startswith("error: ")
  assert done.stderr.count("\n") == 1


def test_data_that_is_not_prepared(tmp_path):
  done = command(
    "experiments.ddpm.train",
    "cifar10",
    "--smoke",
    f"--workdir={tmp_path / 'run'}",
    f"--data-dir={tmp_path}",
  )
  assert done.returncode == 1
  assert "python -m jaxgen.data.prepare cifar10" in done.stderr
  assert "mnist5k" in done.stderr


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"lr": -1.0}, "lr must be positive"),
    ({"dropout": 1.0}, "dropout must lie in"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"variance": "learned"}, "needs loss='bound'"),
  ],
)
def test_bad_configurations(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(Config(), **changes)
