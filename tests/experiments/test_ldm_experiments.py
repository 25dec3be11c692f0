"""The experiments of latent diffusion, at tiny size."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from toy_ldm import (
  TINY,
  first_stage_params,
  random_params,
  toy,
  toy_source,
)

import jaxgen.diffusion as jd
from experiments import models
from experiments.evaluate import Scoring
from experiments.ldm import (
  batches,
  files,
  first_stage,
  latents,
  model,
  sample,
  table1,
  table2,
  table3,
)
from experiments.ldm.config import Config
from experiments.ldm.configs import CONFIGS
from experiments.ldm.export import export
from experiments.ldm.measuring import Measuring
from experiments.ldm.train import train
from experiments.sampling import Sampling, make_draw
from jaxgen import data, training
from jaxgen.convert import first_stage as first_stage_files
from jaxgen.convert import ldm_unet
from jaxgen.convert.state import read_safetensors, write_safetensors
from jaxgen.nn.autoencoder import VQAutoencoder

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def frozen():
  return first_stage_params()


@pytest.fixture
def blind(monkeypatch):
  """In place of the U-Net a network that says 0, quick to compile."""
  network = lambda z, t: jnp.zeros_like(z)
  monkeypatch.setattr(model, "make_network", lambda *args: network)


@pytest.fixture(scope="module", autouse=True)
def toys(frozen):
  """The toy images as every data set, the first stage under every name."""
  load = lambda weights: (None, TINY, frozen)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data, "load", toy_source)
    patch.setattr("experiments.first_stage.model.load", load)
    yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A text-to-image model, trained from cached latents."""
  directory = tmp_path_factory.mktemp("ldm")
  return train(toy(workdir=str(directory)))


def losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["loss"] for line in lines]


def test_a_run_leaves_its_files_and_samples(workdir, tmp_path):
  """Captions in, images out, with guidance."""
  assert np.isfinite(losses(workdir)).all()
  assert len(losses(workdir)) == 4
  given = sample.Given(prompt=("red heart", "grinning cat"))
  how = Sampling("dpm_solver_pp_2m", 4, "ldm", guidance=3.0)
  sample.main(str(workdir), given, how, n=4, out=str(tmp_path))
  assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (8, 8, 8, 3)
  assert (tmp_path / "grid.png").exists()


@pytest.fixture(scope="module")
def folder(workdir, tmp_path_factory):
  """The same model, exported."""
  return export(str(workdir), str(tmp_path_factory.mktemp("out") / "model"))


def test_an_exported_model_is_the_trained_one(workdir, folder):
  """To half precision, 11 bits; but for the encoder, which sampling lacks."""
  config, _, trained = model.load(str(workdir))
  found_config, _, found = model.load(str(folder))
  assert (found_config.steps, found_config.workdir) == (4, "")
  assert found_config.vocab_size == config.vocab_size
  wanted = flatten_dict(trained)
  encoder = {p for p in wanted if p[1:2] in (("encoder",), ("quant_conv",))}
  assert encoder
  assert set(flatten_dict(found)) == set(wanted) - encoder
  for path, leaf in flatten_dict(found).items():
    assert leaf.dtype == jnp.float32
    np.testing.assert_allclose(leaf, wanted[path], rtol=2**-11, atol=2**-25)


@pytest.mark.slow
def test_an_exported_model_draws_the_same_images(workdir, folder):
  how = Sampling("ddim", 4, "ldm", guidance=3.0)
  given = sample.Given(prompt=("red heart",))
  images = []
  for path in (workdir, folder):
    loaded = models.load(str(path))
    tokens = sample.read_condition(loaded.config, given, path)
    images.append(sample.draw_images(loaded, how, tokens, 2).astype(int))
  assert np.abs(images[0] - images[1]).max() <= 3
  assert np.ptp(images[0]) > 50


def test_an_export_never_overwrites(workdir, folder):
  with pytest.raises(OSError, match="is not empty: choose another folder"):
    export(str(workdir), str(folder))
  with pytest.raises(FileNotFoundError, match="is no workdir of"):
    export(str(folder), "anywhere")


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda s: s.pop("scale"), r"scale must be \(\), got none"),
    (lambda s: s.update(scale=np.ones(2, "f2")), r"got \(2,\)"),
    (lambda s: s.update(other=np.ones(2, "f2")), "holds other, which the"),
    (
      lambda s: [s.pop(n) for n in list(s) if "decoder" in n],
      "first_stage/decoder/.* got none",
    ),
  ],
)
def test_a_damaged_export_is_refused(folder, tmp_path, damage, message):
  shutil.copytree(folder, tmp_path / "model")
  path = tmp_path / "model" / "model.safetensors"
  state = read_safetensors(path)
  damage(state)
  write_safetensors(path, state)
  with pytest.raises(ValueError, match=message):
    models.load(str(tmp_path / "model"))


@pytest.mark.parametrize("name", ["experiment.json", "first_stage.json"])
def test_an_export_of_absurd_depth_is_refused(folder, tmp_path, name):
  """As many blocks would take days to build."""
  shutil.copytree(folder, tmp_path / "model")
  path = tmp_path / "model" / name
  fields = json.loads(path.read_text()) | {"num_res_blocks": 900_000}
  path.write_text(json.dumps(fields))
  with pytest.raises(ValueError, match="num_res_blocks 900000 of "):
    models.load(str(tmp_path / "model"))


def test_half_precision_refuses_what_it_cannot_hold(tmp_path):
  with pytest.raises(ValueError, match="a/b has entries that half precision"):
    files.write(tmp_path, {}, {"a": {"b": np.array([1e5])}}, tmp_path)


def test_the_model_that_ships_draws_what_is_asked_for(tmp_path):
  """Hearts of the colour that the prompt names, on white."""
  weights = Path(files.__file__).parent / "weights" / "openmoji"
  assert (weights / files.PARAMS).stat().st_size < 15e6
  how = Sampling("ddim", 10, "ldm", guidance=3.0)
  given = sample.Given(prompt=("red heart", "green heart", "blue heart"))
  sample.main(str(weights), given, how, n=2, batch_size=6, out=str(tmp_path))
  images = np.load(tmp_path / "samples.npz")["arr_0"].astype(float)
  assert images.shape == (6, 64, 64, 3)
  middle = images[:, 24:36, 24:40].mean((1, 2))
  corner = images[:, :4, :4].mean((1, 2))
  assert (corner > 240).all()
  assert (middle.argmax(-1) == [0, 0, 1, 1, 2, 2]).all()


def toy_model(workdir):
  """A denoiser whose x_0 is its condition; decoding doubles."""
  loaded = models.load(str(workdir))

  def denoiser(params, condition):
    x_0 = condition[:, :1, None, None].astype(jnp.float32) / 10

    def predict(z, t):
      wanted = jnp.broadcast_to(x_0, z.shape)
      return jd.from_x_0(loaded.process, z, t, wanted)

    return predict

  return loaded._replace(
    params={"scale": 2.0},
    denoiser=denoiser,
    no_label=np.full(12, 25),
    decode=lambda params, z: z * params["scale"],
  )


@pytest.mark.parametrize(
  ("how", "alone", "told"),
  [
    (Sampling("ddpm", 50), [5.0, 5.0], [6.0, 1.4]),
    (Sampling("plms", 20), [5.0, 5.0], [6.0, 1.4]),
    (Sampling("ddim", 20, guidance=1.0), [5.0, 5.0], [6.0, 1.4]),
    # 2.5 + 2 (c - 2.5), doubled.
    (Sampling("ddim", 20, guidance=2.0), [5.0, 5.0], [7.0, -2.2]),
  ],
)
def test_images_follow_condition_and_guidance(workdir, how, alone, told):
  """Latents are decoded and never clipped; scale 1 is conditional."""
  toy_images = toy_model(workdir)
  draw = make_draw(toy_images, how)
  keys = jax.random.split(jax.random.key(0), 2)
  label = np.array([[30] * 12, [7] * 12])
  for given, wanted in ((None, alone), ({"label": label}, told)):
    found = draw(toy_images.params, keys, given)
    assert found.shape == (2, 4, 4, 3)
    shown = jnp.broadcast_to(
      jnp.array(wanted)[:, None, None, None], found.shape
    )
    np.testing.assert_allclose(found, shown, atol=1e-3)


@pytest.mark.slow
def test_resuming_is_exact(workdir, tmp_path):
  """Killed after update 2 and continued: the same state, bit for bit."""
  again = tmp_path / "again"
  shutil.copytree(workdir, again)
  shutil.rmtree(again / "checkpoints" / "4")
  train(toy(workdir=str(again)))
  for which in ("ema", "params", "memory"):
    one, other = (
      training.restore_params(path / "checkpoints", which)
      for path in (workdir, again)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
  assert losses(workdir) == losses(again)


def test_cached_latents_are_those_of_the_images(workdir, frozen, blind):
  """The same order, the same flips, the same moments, and so the same loss."""
  config = toy()
  tokenize = batches.make_tokenize(config, workdir)
  found = latents.cached(config, TINY, frozen, workdir / "latents")
  assert found.shape == (2, 24, 4, 4, 6)
  networks = model.make_networks(config, TINY)
  process = model.make_process(config)
  loss = jax.jit(model.make_loss(config, process, networks, tokenize("")))
  encode = jax.jit(lambda x: first_stage.encode(TINY, frozen, x))
  memory = model.init_memory(config, frozen)
  streams = zip(
    range(7),
    batches.image_stream(config, tokenize),
    batches.latent_stream(config, tokenize, found),
    strict=False,
  )
  for n, one, other in streams:
    np.testing.assert_array_equal(one["tokens"], other["tokens"])
    image = jnp.asarray(one["image"])
    np.testing.assert_allclose(other["latent"], encode(image), atol=1e-5)
    key, values = jax.random.key(n), []
    for batch in ({"image": image}, {"latent": jnp.asarray(other["latent"])}):
      batch["tokens"] = jnp.asarray(one["tokens"])
      value, metrics, after = loss({}, key, batch, memory)
      values.append((value, metrics["latent_std"], after["scale"]))
    np.testing.assert_allclose(*values, rtol=1e-4)
    # Of what a posterior is sampled: the noise is another in every step.
    again, _, _ = loss({}, jax.random.key(99), batch, memory)
    assert again != values[0][0]


def test_latents_of_something_else_are_refused(workdir, frozen):
  changed = toy(split="train[:50%]")
  with pytest.raises(ValueError, match=r"other latents, of another split"):
    latents.cached(changed, TINY, frozen, workdir / "latents")
  more = {**frozen, "quant_conv": frozen["post_quant_conv"]}
  with pytest.raises(ValueError, match="of another first_stage"):
    latents.cached(toy(), TINY, more, workdir / "latents")


def test_latents_are_scaled_to_unit_variance(blind):
  """By 1 / std of the first batch alone, which torch divides by n - 1."""
  config = toy("none", cond_dropout=0.0, context_dim=None)
  codes = VQAutoencoder(8, 3, (1, 1), mid_attention=False, channels=32)
  networks = model.make_networks(config, codes)
  process = model.make_process(config)
  loss = jax.jit(model.make_loss(config, process, networks, None))
  z = np.random.default_rng(0).normal(1.5, 4.0, (8, 4, 4, 3))
  batch = {"latent": jnp.asarray(z, jnp.float32)}
  memory = model.init_memory(config, {})
  _, metrics, memory = loss({}, jax.random.key(1), batch, memory)
  scale = 1 / np.sqrt(((z - z.mean()) ** 2).sum() / (z.size - 1))
  assert memory["scale"] == pytest.approx(scale, rel=1e-5)
  assert metrics["latent_std"] == pytest.approx(1, abs=2e-3)
  wider = {"latent": 10 * batch["latent"]}
  _, metrics, memory = loss({}, jax.random.key(2), wider, memory)
  assert memory["scale"] == pytest.approx(scale, rel=1e-5)
  assert metrics["latent_std"] == pytest.approx(10, rel=1e-2)


@pytest.fixture
def released(frozen, monkeypatch, tmp_path):
  """A file in the release's layout, of a small class-conditional model."""
  config = toy(
    "class", name="cin256", autoencoder="tiny", cond_dropout=0.1, num_heads=1
  )
  monkeypatch.setitem(CONFIGS, "cin256", config)
  monkeypatch.setitem(first_stage.AUTOENCODERS, "tiny", TINY)
  unet = model.make_unet(config)
  params = random_params(lambda key: model.init_params(config, unet, key))
  table = params["conditioner"]["embedding"]["embedding"]
  process = model.make_process(config)
  state = {
    **{
      ldm_unet.PREFIX + name: x
      for name, x in ldm_unet.to_original(params["unet"], unet).items()
    },
    **{
      first_stage_files.PREFIX + name: x
      for name, x in first_stage_files.to_original(frozen, TINY).items()
    },
    "cond_stage_model.embedding.weight": np.asarray(table),
    "alphas_cumprod": np.asarray(process.alpha(jnp.arange(1, 1001)) ** 2),
    "scale_factor": np.float32(0.25),
  }
  path = tmp_path / "model.safetensors"
  write_safetensors(path, state)
  return path, state, params


def test_released_files(released, frozen):
  path, state, params = released
  _, _, found = model.load(f"cin256:{path}")
  wanted = {**params, "first_stage": frozen, "scale": jnp.float32(0.25)}
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  loaded = models.load(f"cin256:{path}")
  assert (loaded.num_classes, loaded.no_label) == (3, 3)
  write_safetensors(path, {**state, "other.weight": np.zeros(1)})
  with pytest.raises(ValueError, match=r"that cin256 has not, first other"):
    model.load(f"cin256:{path}")
  levels = {"alphas_cumprod": state["alphas_cumprod"] ** 2}
  write_safetensors(path, {**state, **levels})
  with pytest.raises(ValueError, match="noise schedule"):
    model.load(f"cin256:{path}")


def test_tables_have_a_row_for_every_model():
  assert table3.row_of(CONFIGS["cin256"], 1.5).paper["FID"] == "3.60"
  assert table3.row_of(CONFIGS["cin256_f8"], 1.0).paper["FID"] == "15.51"
  with pytest.raises(ValueError, match="Table 3 has class-conditional"):
    table3.row_of(CONFIGS["cin256"], 2.0)
  rows = {row for row, *_ in table1.WAYS.values()}
  assert rows == {row.name for row in table1.ROWS}
  assert set(table1.WAYS) <= set(CONFIGS)


@pytest.mark.slow
def test_a_table_of_captions(workdir, tmp_path):
  """Scores against the captions' own images, with shipped features."""
  scoring = Scoring("openmoji32-cnn")
  measuring = Measuring(16, 16, out=str(tmp_path))
  where = {"dataset": "toys", "split": "train"}
  options = {"steps": 2, "scoring": scoring, "measuring": measuring}
  table2.main(str(workdir), guidance=1.0, **where, **options)
  (path,) = tmp_path.glob("*.json")
  found = json.loads(path.read_text())
  assert found["row"] == "LDM-KL-8"
  assert found["config"]["dataset"] == "toys"
  assert 0 < found["values"]["FID"] < 1e6
  assert path.with_suffix(".png").exists()
  with pytest.raises(ValueError, match="has 24 images, fewer than n = 1000"):
    table2.main(str(workdir), **where, scoring=scoring)


def test_user_errors(workdir, tmp_path):
  with pytest.raises(ValueError, match="needs a first stage: --first-stage"):
    train(dataclasses.replace(toy(), first_stage=""))
  with pytest.raises(ValueError, match=r"diffuses latents \(8, 8, 3\)"):
    model.make_networks(toy(latent_size=8), TINY)
  with pytest.raises(FileNotFoundError, match="neither a workdir, a folder"):
    model.load("nothing:there")
  with pytest.raises(ValueError, match="openmoji was never released"):
    model.load("openmoji:model.ckpt")
  with pytest.raises(ValueError, match="needs --prompt"):
    sample.main(str(workdir))
  given = sample.Given(prompt=("a",), boxes="b")
  with pytest.raises(ValueError, match="takes no --boxes"):
    sample.main(str(workdir), given)
  with pytest.raises(ValueError, match="hides a class or a text"):
    toy("mask", cond_dropout=0.1)
  with pytest.raises(ValueError, match="keeps no images"):
    Config(condition="mask", cache_latents=True)
  with pytest.raises(ValueError, match="can only be sampled"):
    batches.load_source(Config(condition="segmentation"))
  with pytest.raises(ValueError, match="needs a data set with captions"):
    batches.caption_of({"image": 0, "label": 1})
  with pytest.raises(FileNotFoundError, match="needs --vocab"):
    sample.read_condition(
      toy(), sample.Given(prompt=("a",)), tmp_path / "nowhere"
    )
  other = TINY.clone(num_res_blocks=2)
  with pytest.raises(ValueError, match="names another first stage"):
    first_stage.write_architecture(workdir / "first_stage.json", other)
