"""First stages: the released configurations; scripts at tiny size."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from original_first_stage import (
  TINY,
  TINY_VQ,
  original_state,
  original_tensors,
)

from experiments import models, results
from experiments.evaluate import Scoring
from experiments.first_stage import model, reconstruction, table8
from experiments.first_stage.config import CONFIGS, PUBLISHED, Config
from experiments.first_stage.train import train
from jaxgen import training
from jaxgen.convert import lpips as convert_lpips
from jaxgen.nn.autoencoder import KL_AUTOENCODERS, VQ_AUTOENCODERS
from jaxgen.nn.posteriors import DiagonalGaussian
from jaxgen.nn.quantizers import Quantized, codebook_usage, usage_of

DATA = Path(__file__).parents[1] / "data"
RELEASED = json.loads((DATA / "first_stage_configs.json").read_text())
SCORING = Scoring(reference="mnist5k:test[:40]")


def smoke_run(name, directory):
  config = CONFIGS[name]
  return train(dataclasses.replace(config, workdir=str(directory), smoke=True))


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
  """A smoke run, as the command line makes it."""
  return smoke_run("mnist5k_kl_f4", tmp_path_factory.mktemp("kl"))


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", RELEASED)
def test_configurations_are_the_released_ones(name):
  ours = dataclasses.asdict(CONFIGS[name])
  ours |= {k: list(v) for k, v in ours.items() if isinstance(v, tuple)}
  found = {field: ours[field] for field in RELEASED[name]}
  assert found.pop("lr") == pytest.approx(RELEASED[name]["lr"])
  assert found == {k: v for k, v in RELEASED[name].items() if k != "lr"}
  network = (KL_AUTOENCODERS | VQ_AUTOENCODERS)[name]
  assert model.make_autoencoder(CONFIGS[name]) == network


def test_every_row_of_table_8_has_a_configuration():
  """f, |Z| and c of the paper; lr by its rule; no run is of its own network."""
  paper = {row.name for row in table8.ROWS}
  assert paper == {name for name in CONFIGS if "-" in name}
  assert set(RELEASED) == set(PUBLISHED)
  for name in paper:
    config = CONFIGS[name]
    assert (config.name, table8.row_name(config)) == (name, name)
    assert config.lr == pytest.approx(4.5e-6 * config.batch_size)
    assert name.split("-")[1] == f"f{config.f}"
    assert (config.beta, config.legacy) == (0.25, True)
    assert config.ema_decay == config.decay_steps == 0
  z = {
    name: (CONFIGS[name].num_codes, CONFIGS[name].z_channels)
    for name in CONFIGS
  }
  assert z["vq-f2"] == (2048, 2)
  assert z["vq-f2-n64"] == (64, 2)
  assert z["vq-f4-n256"] == (256, 3)
  assert z["vq-f32"] == (16384, 16)
  assert z["kl-f2"] == (0, 2)
  assert z["kl-f16-c8"] == (0, 8)
  assert z["kl-f32-c16"] == (0, 16)
  assert table8.row_name(CONFIGS["mnist5k_kl_f4"]) == "kl-f4"
  assert table8.row_name(CONFIGS["openmoji_vq_f4"]) == "vq-f4-n256"


def test_a_run_leaves_its_files(kl):
  assert [line["step"] for line in lines(kl)] == [1, 2, 3, 4, 5, 6]
  assert (kl / "loss.png").exists()
  assert (kl / "reconstructions.png").exists()
  which = training.restore_params(kl / "checkpoints", "params")
  assert set(which) == {"autoencoder", "discriminator"}


@pytest.mark.slow
def test_a_run_continues_bit_for_bit(kl, tmp_path):
  """From the third of six steps, discriminator and its statistics included."""
  shutil.copytree(kl, tmp_path / "run")
  shutil.rmtree(tmp_path / "run/checkpoints/6")
  smoke_run("mnist5k_kl_f4", tmp_path / "run")
  found, whole = (
    (path / "metrics.jsonl").read_text() for path in (tmp_path / "run", kl)
  )
  assert found == whole
  for which in ("ema", "params"):
    both = [
      training.restore_params(path / "checkpoints", which)
      for path in (tmp_path / "run", kl)
    ]
    jax.tree.map(np.testing.assert_array_equal, *both)


def check_log(found):
  """The discriminator's loss is 0 before its start at step 2, from 0."""
  sleeping = [line["disc_loss"] == 0 for line in found]
  assert sleeping == [True, True, False, False, False, False]
  assert all(line["d_weight"] > 0 for line in found)
  assert all(line["rec"] >= line["l1"] for line in found)
  assert not any(line["collapsed"] for line in found)


def test_what_is_logged(kl):
  """Before the start, sums over 28 x 28 values and 1e-6 of the divergence."""
  check_log(lines(kl))
  for line in lines(kl)[:2]:
    assert line["nll"] == pytest.approx(784 * line["rec"], rel=1e-5)
    assert line["loss"] == pytest.approx(
      line["nll"] + 1e-6 * line["kl"], rel=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist5k_vq_f4", "openmoji_vq_f4"])
def test_a_codebook_is_trained(name, tmp_path):
  run = smoke_run(name, tmp_path)
  check_log(lines(run))
  for line in lines(run):
    assert (16 * line["used"]) == int(16 * line["used"])
    assert 1 <= line["perplexity"] <= 16 * line["used"] + 1e-3


def test_collapses_are_one_sentence():
  config = CONFIGS["mnist5k_vq_f4"]
  assert model.collapse(config, {"perplexity": 3.6}, 1000) == ""
  said = model.collapse(config, {"perplexity": 1.25}, 1000)
  assert said == (
    "the codebook has collapsed: the perplexity of its 256 codes is 1.25, "
    "below 3.55"
  )
  # Two images have 98 codes at most.
  assert model.collapse(config, {"perplexity": 2.0}, 2) == ""
  config = CONFIGS["mnist5k_kl_f4"]  # 7 x 7 x 3 values
  assert model.collapse(config, {"kl": 1.5}, 1) == ""
  said = model.collapse(config, {"kl": 0.25}, 1)
  assert said == (
    "the posterior has collapsed: it tells 0.25 nats of an image, below 1.47"
  )


class Collapsed:
  """Whose latents are all the same, like its grey images of 28 x 28."""

  def apply(self, variables, x, method):
    if method == "quantize":
      return Quantized(x, jnp.zeros(x.shape[:-1], int), jnp.zeros(()))
    if method == "decode_quantized":
      return jnp.full((len(x), 28, 28, 1), -1.0)
    return jnp.zeros((len(x), 8, 8, 3))


class CollapsedKL(Collapsed):
  """A posterior that is N(0, 1)."""

  def apply(self, variables, x, method):
    zeros = super().apply(variables, x, method)
    return DiagonalGaussian(zeros, zeros)


@pytest.mark.parametrize(
  ("config", "network"), [(TINY, CollapsedKL()), (TINY_VQ, Collapsed())]
)
def test_a_collapse_is_seen_in_training(config, network):
  x, key = jnp.ones((2, 16, 16, 3)), jax.random.key(0)
  _, _, metrics = model.encode(config, network, {}, key, x)
  assert metrics["collapsed"] == 1


class Shifted:
  """An autoencoder whose reconstructions are ten levels too bright."""

  def apply(self, variables, x, method):
    if method == "decode":
      return x
    return DiagonalGaussian(x + 10 / 127.5, jnp.full_like(x, -30.0))


def test_judgement_by_hand():
  """PSNR of an error of 10 is 20 log10(255 / 10); equal images are equal."""
  config = dataclasses.replace(
    CONFIGS["mnist5k_kl_f4"], channel_mult=(1,), test_split="test[:20]"
  )
  images = [np.full((28, 28, 1), level, np.uint8) for level in range(20, 40)]
  yardstick = table8.make_reference(config, Scoring())
  weights = (config, Shifted(), {})
  found = reconstruction.judge(weights, images, yardstick, batch_size=8)
  assert found.values["PSNR"] == pytest.approx(28.1308, abs=1e-3)
  assert found.spread["PSNR"] < 1e-3
  # Flat images: (2 m n + C_1) / (m^2 + n^2 + C_1), n = m + 10 levels, where
  # black is -127.5 levels.
  levels, c = np.arange(20, 40), 2.55**2
  m = levels - 127.5
  ssim = (2 * m * (m + 10) + c) / (m**2 + (m + 10) ** 2 + c)
  assert found.values["SSIM"] == pytest.approx(ssim.mean(), abs=1e-4)
  # Per value: (mean^2 + e^-30 - 1 + 30) / 2.
  mean = (levels + 10) / 127.5 - 1
  kl = 28 * 28 * (mean**2 + 29) / 2
  assert found.values["kl"] == pytest.approx(kl.mean(), rel=1e-4)
  np.testing.assert_array_equal(found.shown.x_hat, found.shown.x + 10)
  assert found.collapse == ""
  grid = reconstruction.grid(found.shown, columns=4)
  np.testing.assert_array_equal(grid[4:8], grid[:4] + 10)


def test_codebook_usage_of_counts():
  indices = np.array([0, 0, 0, 2, 2, 5])
  found = usage_of(np.bincount(indices, minlength=8))
  np.testing.assert_allclose(found, codebook_usage(indices, 8), rtol=1e-6)
  perplexity = 2 ** (1 / 2) * 3 ** (1 / 3) * 6 ** (1 / 6)
  np.testing.assert_allclose(found, [3 / 8, perplexity], rtol=1e-6)


def test_table_8(kl, tmp_path, capsys):
  table8.main([str(kl)], SCORING, n=20, batch_size=8, out=str(tmp_path))
  printed = capsys.readouterr().out
  assert "| kl-f4 | 0.27 | 227.57 | 27.53 | 0.55 | 0.82 |" in printed
  (path,) = tmp_path.glob("*.json")
  assert path.with_suffix(".png").exists()
  result = results.Result(**json.loads(path.read_text()))
  assert result.row == "kl-f4"
  assert set(result.ours) == {"R-FID", "R-IS", "PSNR", "SSIM"}
  assert "first 20 images of mnist5k:test" in result.protocol
  assert f"KL {result.values['kl']:.4g} nats an image" in result.protocol
  assert "mnist5k-cnn" in result.ours["R-FID"]
  with pytest.raises(ValueError, match="a first stage, which has no process"):
    models.load(str(kl))


def test_a_codebook_in_table_8():
  """A codebook of which only one entry is near: said in the protocol."""
  config = dataclasses.replace(
    CONFIGS["mnist5k_vq_f4"], channel_mult=(1, 1), test_split="test[:20]"
  )
  weights = (config, Collapsed(), {})
  result, found = table8.measure(weights, SCORING, batch_size=8)
  assert result.row == "vq-f2"
  assert "0% of codes used, perplexity 1;" in result.protocol
  assert result.protocol.endswith(found.collapse)
  assert found.collapse.startswith("the codebook has collapsed")


def test_published_files_are_read(tmp_path, monkeypatch):
  """By NAME:PATH, and in a folder of that name as the release unpacks."""
  torch = pytest.importorskip("torch")
  config = dataclasses.replace(TINY, name="kl-f4")
  monkeypatch.setitem(model.PUBLISHED, "kl-f4", config)
  tensors = {k: torch.tensor(x) for k, x in original_tensors("kl").items()}
  folder = tmp_path / "kl-f4"
  folder.mkdir()
  torch.save({"state_dict": tensors}, folder / "model.ckpt")
  wanted = original_state("kl", config).params["autoencoder"]
  for weights in (f"kl-f4:{folder / 'model.ckpt'}", str(folder)):
    found, _, params = model.load(weights)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    assert found.lpips == str(folder / "model.ckpt")
  # It holds the LPIPS that it was trained with, too.
  loaded = model.load_lpips(found.lpips)
  np.testing.assert_array_equal(
    loaded["lin3"].ravel(),
    tensors["loss.perceptual_loss.lin3.model.1.weight"].ravel(),
  )
  assert model.record(found)["lpips"] == "model.ckpt"
  with pytest.raises(FileNotFoundError, match="one of kl-f4, kl-f8"):
    model.load(str(tmp_path / "none"))
  with pytest.raises(FileNotFoundError):
    model.load(f"kl-f4:{tmp_path / 'none.ckpt'}")


def test_lpips_is_read_from_two_files(tmp_path):
  """torchvision's and the distance's, which are the leaves of the distance."""
  torch = pytest.importorskip("torch")
  params = convert_lpips.from_original(
    {
      k: x
      for k, x in original_tensors("kl").items()
      if k.startswith(convert_lpips.PREFIX)
    }
  )
  for state, name in zip(
    convert_lpips.to_torchvision(params),
    ("vgg16-397923af.pth", "vgg.pth"),
    strict=True,
  ):
    tensors = {k: torch.tensor(np.array(x)) for k, x in state.items()}
    torch.save(tensors, tmp_path / name)
  config = dataclasses.replace(TINY, lpips=str(tmp_path))
  distance = model.make_perceptual(config)
  assert jax.tree.structure(params).num_leaves == 31
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.tree.leaves(distance),
    jax.tree.leaves(params),
  )
  x = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
  assert jax.eval_shape(distance, x, x).shape == (4,)
  with pytest.raises(FileNotFoundError):
    model.load_lpips(tmp_path / "none.pth")


@pytest.mark.parametrize("size", [28, 30, 48, 256])
def test_without_lpips_pyramids_of_any_size_are_compared(size):
  config = dataclasses.replace(TINY, image_size=size)
  x = jax.ShapeDtypeStruct((4, size, size, 1), jnp.float32)
  distance = model.make_perceptual(config)
  assert jax.eval_shape(distance, x, x).shape == (4,)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"lr": 0.0}, "lr must be positive"),
    ({"steps": 0}, "steps must be at least 1"),
    ({"image_size": 30}, "image_size must be a multiple of f = 8, got 30"),
    ({"lpips": "x", "image_channels": 1}, "images of 3 channels"),
    ({"decay_steps": 10}, "the learning rate is 0 after"),
  ],
)
def test_bad_configurations(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(Config(), **changes)


def test_other_rows_and_missing_data_are_one_sentence(tmp_path):
  config = dataclasses.replace(Config(), name="x", channel_mult=(1,) * 7)
  with pytest.raises(ValueError, match="has no row kl-f64"):
    table8.row_name(config)
  config = dataclasses.replace(
    CONFIGS["kl-f8"],
    workdir=str(tmp_path / "run"),
    data_dir=str(tmp_path),
    smoke=True,
  )
  with pytest.raises(FileNotFoundError, match="200k is not prepared in"):
    train(config)
