"""Scripts of improved DDPM's tables and figures, tiny."""

import dataclasses
import json

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import evaluate, models, results
from experiments.ddim import figures as ddim_figures
from experiments.iddpm import ablation, figures, table1, table2, table3, table4
from experiments.iddpm.config import CONFIGS
from experiments.sampling import Sampling

pytestmark = pytest.mark.usefixtures("one_device")

SCORING = evaluate.Scoring(reference="mnist5k:test[:40]")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
  """One row of Table 2 of a class-conditional model."""
  directory = tmp_path_factory.mktemp("table2")
  config = dataclasses.replace(
    CONFIGS["mnist5k"], num_classes=10, workdir=str(directory), smoke=True
  )
  sizes = ablation.Sizes((3,), 8, bound_chunk=10, samples=12, sampling_steps=5)
  what = table2.Table(config, SCORING, sizes, ("4K-cosine-vlb",))
  table2.main(what)
  return directory


def test_a_row_is_trained(measured):
  text = (measured / "table.md").read_text()
  assert text.count("| 4K-cosine-vlb | 2.94 | 11.47 |") == 1
  assert "L_vlb has a worse FID than L_hybrid: not run" in text
  assert (measured / "table.png").exists()
  (path,) = measured.glob("*.json")
  result = results.Result(**json.loads(path.read_text()))
  assert result.config["objective"] == "vlb"
  assert result.config["seed"] == 3
  assert "mnist5k-cnn" in result.ours["FID"]
  unknown = table2.Table(CONFIGS["mnist5k"], rows=("4k",))
  with pytest.raises(ValueError, match=r"the rows are .* got 4k$"):
    table2.main(unknown)


def test_the_loss_history_is_kept(measured):
  """It counts every example of the six steps, the last ten of each time."""
  path = measured / "4K-cosine-vlb-seed3/checkpoints/6/arrays/memory"
  memory = ocp.StandardCheckpointer().restore(path)
  counts = memory["counts"] if isinstance(memory, dict) else memory[1]
  assert np.sum(np.minimum(counts, 10)) == np.sum(counts) <= 6 * 8
  assert np.sum(counts) > 6 * 8 / 2


def test_rows_are_the_papers_variants():
  """T, dropout and the number of updates of Tables 1 and 2."""
  cifar = {
    name: ablation.variant_config(CONFIGS["cifar10"], variant, 5)
    for name, variant in table2.VARIANTS.items()
  }
  for name, config in cifar.items():
    T, schedule, objective = name.split("-")
    assert {"1K": 1000, "4K": 4000}[T] == config.T
    assert (config.schedule, config.objective) == (schedule, objective)
    assert config.dropout == {"linear": 0.1, "cosine": 0.3}[schedule]
    assert (config.steps, config.seed) == (500_000, 5)
  base = dataclasses.replace(CONFIGS["imagenet64"], steps=200_000)
  for name, variant in table1.VARIANTS.items():
    steps = ablation.variant_config(base, variant, 0).steps
    assert steps == {"200K": 200_000, "1.5M": 1_500_000}[name.split("-")[0]]


@pytest.mark.parametrize("table", [table1, table2])
def test_claims_hold_for_the_papers_own_numbers(table):
  """Each claim, read off the table that the paper prints."""
  paper = [
    results.Result(
      table.TITLE,
      row.name,
      row.paper,
      {column: float(number) for column, number in row.paper.items()},
      {"dataset": "paper"},
      "",
      0.0,
    )
    for row in table.ROWS
  ]
  text = results.claims(table.TITLE, table.CLAIMS, paper)
  assert text.count("paper: **seen**") == len(table.CLAIMS)


def test_averages_of_seeds():
  """1, 2, 3 have mean 2 and standard deviation 1."""
  runs = [
    results.Result(
      "T", "row", {}, {"NLL": x}, {"dataset": "d", "seed": i}, "", 0.0
    )
    for i, x in enumerate((1.0, 2.0, 3.0))
  ]
  assert "| row | d | 0, 1, 2 | 2 ± 1 |" in results.averages("T", runs)
  assert results.averages("T", runs[:1]) == ""
  assert results.averages("another", runs) == ""


def test_table_3(measured, tmp_path, capsys):
  weights = str(measured / "4K-cosine-vlb-seed3")
  table3.main(weights, n=8, batch_size=8, chunk=10, out=str(tmp_path))
  printed = capsys.readouterr().out
  assert "| DDPM | 3.77 | 3.70 | Ho et al. 2020" in printed
  assert "| Improved DDPM | 3.53 | 2.94 |" in printed
  (path,) = tmp_path.glob("*.json")
  value = json.loads(path.read_text())["values"]["CIFAR-10"]
  (other,) = measured.glob("*seed3.json")
  # The same images, noise and network as Table 2's.
  wanted = json.loads(other.read_text())["values"]["NLL"]
  assert value == pytest.approx(wanted, rel=1e-5)
  with pytest.raises(ValueError, match="got one trained with 'hybrid'"):
    table3.row_of(CONFIGS["cifar10"])


def test_table_4(measured, tmp_path, capsys):
  weights = str(measured / "4K-cosine-vlb-seed3")
  how = Sampling(grid="5")
  table4.main(weights, how, SCORING, n=12, sampling_batch=8, out=str(tmp_path))
  printed = capsys.readouterr().out
  assert "| BigGAN-deep | 4.06 | 0.86 | 0.59 |" in printed
  assert "| small (100M) | 6.92 | 0.77 | 0.72 |" in printed
  (path,) = tmp_path.glob("*.json")
  found = json.loads(path.read_text())["values"]
  assert set(found) == {"FID", "precision", "recall"}
  assert path.with_suffix(".png").exists()
  assert models.load(weights).num_classes == 10


@pytest.mark.slow
def test_figures_of_improved_ddpm(measured, tmp_path):
  figures.main(
    (str(measured / "4K-cosine-vlb-seed3"),),
    SCORING,
    steps=(5, 100),
    n=12,
    bound_images=8,
    bound_chunk=10,
    out=str(tmp_path),
  )
  found = json.loads((tmp_path / "figures.json").read_text())
  assert found["steps"] == [5]  # 100 are more than T
  assert set(found["fid"]) == {"L_vlb", "L_vlb, DDIM"}
  assert len(found["terms"]["L_vlb"]) == 50
  names = {path.name for path in tmp_path.glob("*.png")}
  assert names == {
    f"{name}.png"
    for name in ("schedules", "variances", "bound_terms", "fid_steps")
  }


@pytest.mark.slow
def test_ddims_figures_of_a_workdir(measured, tmp_path):
  ddim_figures.main(
    str(measured / "4K-cosine-vlb-seed3"),
    rows=2,
    columns=3,
    steps=(5, 10),
    interpolation_steps=5,
    out=str(tmp_path),
  )
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"consistency.png", "interpolation.png"}


def test_the_results_page_has_every_table(tmp_path, monkeypatch):
  monkeypatch.setattr(results, "RESULTS", tmp_path)
  monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
  results.main()
  text = (tmp_path / "README.md").read_text()
  assert text.count("\n### ") == len(results.TABLES)
  assert "| 200K-4K-cosine-hybrid | 3.62 | 28.0 | not run" in text
