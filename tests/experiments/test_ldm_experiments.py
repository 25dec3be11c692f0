"""The experiments of latent diffusion, at tiny size."""

import dataclasses
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxgen.diffusion as jd
from experiments import models
from experiments.ldm import (
  batches,
  conditions,
  first_stage,
  latents,
  layout,
  model,
  sample,
  table1,
  table3,
)
from experiments.ldm.config import Config, smoke
from experiments.ldm.configs import CONFIGS
from experiments.ldm.train import train
from experiments.sampling import Sampling, make_draw
from jaxgen import data, training
from jaxgen.convert import first_stage as first_stage_files
from jaxgen.convert import ldm_unet
from jaxgen.convert.state import write_safetensors
from jaxgen.data.loading import Source
from jaxgen.nn.autoencoder import AutoencoderKL, VQAutoencoder
from jaxgen.nn.conditioners import CONDITIONERS
from jaxgen.nn.ldm_bert import LDM_BERTS, LdmBert
from jaxgen.nn.ldm_unet import LDM_NETWORKS

RELEASED = json.loads(
  (Path(__file__).parents[1] / "data/ldm_configs.json").read_text()
)
TINY = AutoencoderKL(
  3, (1, 1), mid_attention=False, channels=32, num_res_blocks=1
)
CAPTIONS = ("red heart", "grinning cat", "flag: Chad", "")
NETWORKS = {
  "celebahq256": "celeba256",
  "churches256": "lsun_churches256",
  "bedrooms256": "lsun_beds256",
  "cin256": "cin256_v2",
  "cin256_f8": "cin256",
  "txt2img": "txt2img_1p4b",
  "super_resolution": "bsr_sr",
  "layout2img": "layout2img_openimages256",
}


def images(n, size=8, channels=3):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (n, size // 2, size // 2, channels), np.uint8)
  return coarse.repeat(2, 1).repeat(2, 2)


def toy_source(name, split, data_dir=None):
  """24 captioned images of 8 x 8 pixels, as PNG."""
  records = []
  for i, image in enumerate(images(24)):
    png = io.BytesIO()
    Image.fromarray(image).save(png, "png")
    caption = CAPTIONS[i % len(CAPTIONS)].encode()
    records.append(
      {"image": png.getvalue(), "caption": caption, "label": i % 3}
    )
  return Source(name, records, 3)


def random_params(init, *args):
  """Weights of a network that is never compiled to be initialised."""
  rng = np.random.default_rng(3)
  shapes = jax.eval_shape(init, jax.random.key(0), *args)
  draw = lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), x.dtype)
  return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def frozen():
  """A first stage with random weights, whose latents are not of unit size."""
  params = random_params(TINY.init, jnp.zeros((1, 8, 8, 3)))["params"]
  params["quant_conv"]["bias"] = jnp.array([0.5, 0, -0.5, -2, -2, -2])
  return params


@pytest.fixture
def blind(monkeypatch):
  """In place of the U-Net a network that says 0, quick to compile."""
  network = lambda z, t: jnp.zeros_like(z)
  monkeypatch.setattr(model, "make_network", lambda *args: network)


@pytest.fixture(scope="module", autouse=True)
def toys(frozen):
  """The toy images as every data set, the first stage under every name."""
  stage = SimpleNamespace(load=lambda weights: (None, TINY, frozen))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data, "load", toy_source)
    patch.setitem(sys.modules, "experiments.first_stage.model", stage)
    yield


def toy(condition="text", **changes):
  """A smoke configuration of 8 x 8 images and 4 x 4 latents."""
  fields = {
    "image_size": 8,
    "latent_size": 4,
    "channel_mult": (1,),
    "first_stage": "tiny",
    "flip": True,
    "condition": condition,
    "num_classes": 3 if condition == "class" else 0,
  }
  small = smoke(CONFIGS["openmoji_small"])
  return dataclasses.replace(small, **fields | changes)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A text-to-image model, trained from cached latents."""
  directory = tmp_path_factory.mktemp("ldm")
  return train(toy(workdir=str(directory)))


def losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("name", RELEASED)
def test_configurations_are_the_released_ones(name):
  ours, theirs = CONFIGS[name], RELEASED[name]
  for field, value in {
    "beta_start": theirs["linear_start"],
    "beta_end": theirs["linear_end"],
    "T": theirs["timesteps"],
    "loss": theirs["loss_type"],
    "latent_size": theirs["image_size"],
    "latent_channels": theirs["channels"],
    "latent_scale": theirs["scale_factor"],
    "scale_by_std": theirs["scale_by_std"],
    "warmup_steps": theirs["warm_up_steps"],
  }.items():
    assert getattr(ours, field) == value, field
  if theirs["batch_size"]:
    assert ours.batch_size == theirs["batch_size"]
    scaled = theirs["base_learning_rate"] * ours.batch_size
    # The release says so of Churches: --scale_lr False.
    rate = 5e-5 if name == "churches256" else scaled
    assert ours.lr == pytest.approx(rate)
  autoencoder = first_stage.AUTOENCODERS[ours.autoencoder]
  first_stage.check(ours, autoencoder)
  widths, codes = theirs["autoencoder"]["ch_mult"], theirs["codes"]
  assert autoencoder.channel_mult == tuple(widths)
  assert getattr(autoencoder, "num_codes", 0) == codes
  assert autoencoder.mid_attention == (theirs["attention"] == "vanilla")
  unet, network = model.make_unet(ours), theirs["unet"]
  wanted = LDM_NETWORKS[NETWORKS.get(name, name)]
  if unet.num_head_channels:  # takes the place of num_heads
    wanted = wanted.clone(num_heads=unet.num_heads)
  assert unet == wanted.clone(dtype=unet.dtype)
  assert unet.channel_mult == tuple(network["channel_mult"])
  assert unet.context_dim == network.get("context_dim")
  channels = unet.out_channels + unet.concat_channels
  assert channels == network["in_channels"]


def test_conditioners_are_the_released_ones():
  made = {
    name: conditions.make_conditioner(config)
    for name, config in CONFIGS.items()
  }
  assert made["celebahq256"] is made["inpainting_big"] is None
  assert made["cin256"] == CONDITIONERS["cin256_v2"]
  assert made["cin256_f8"] == CONDITIONERS["cin256"]
  name = "semantic_synthesis256"
  assert made[name] == CONDITIONERS[name]
  for name, bert in (
    ("txt2img", LDM_BERTS["txt2img_f8_large"]),
    ("text2img256", LDM_BERTS["text2img256"]),
    ("layout2img", LdmBert(8192, 512, 16, max_length=92)),
  ):
    assert made[name] == bert.clone(dtype=made[name].dtype)
    theirs = RELEASED[name]["conditioner"]
    assert (bert.width, bert.num_layers, bert.max_length) == (
      theirs["n_embed"],
      theirs["n_layer"],
      theirs.get("max_seq_len", 77),
    )


@pytest.mark.parametrize(
  ("name", "lr", "batch_size", "steps"),
  [
    ("celebahq256", 9.6e-5, 48, 410_000),
    ("ffhq256", 8.4e-5, 42, 635_000),
    ("churches256", 5e-5, 96, 500_000),
    ("bedrooms256", 9.6e-5, 48, 1_900_000),
    ("txt2img", 1e-4, 680, 390_000),
    ("cin256", 1e-4, 1200, 178_000),
    ("super_resolution", 6.4e-5, 64, 860_000),
    ("layout2img", 4.8e-5, 24, 4_400_000),
  ],
)
def test_hyper_parameters_are_the_papers(name, lr, batch_size, steps):
  """Tables 12 and 15."""
  config = CONFIGS[name]
  assert (config.batch_size, config.steps) == (batch_size, steps)
  assert config.lr == pytest.approx(lr)


def test_the_layout_model_has_the_papers_size():
  """306M in Table 15, with logits that nothing uses; the U-Net is tested."""
  shapes = jax.eval_shape(
    lambda key: conditions.init_conditioner(CONFIGS["layout2img"], key),
    jax.random.key(0),
  )
  count = sum(x.size for x in jax.tree.leaves(shapes))
  logits = (512 + 1) * 8192
  assert count + 246_277_379 + logits == pytest.approx(306e6, rel=0.005)


def test_betas_are_the_released_ones():
  """beta = (0.0015^.5 + i / 999 (0.0195^.5 - 0.0015^.5))^2, in float64."""
  process = model.make_process(CONFIGS["cin256"])
  roots = np.linspace(0.0015**0.5, 0.0195**0.5, 1000)
  wanted = np.cumprod(1 - roots**2)
  found = process.alpha(jnp.arange(1, 1001)) ** 2
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_run_leaves_its_files_and_samples(workdir, tmp_path):
  """Captions in, images out, with guidance."""
  assert np.isfinite(losses(workdir)).all()
  assert len(losses(workdir)) == 4
  given = sample.Given(prompt=("red heart", "grinning cat"))
  how = Sampling("dpm_solver_pp_2m", 4, "ldm", guidance=3.0)
  sample.main(str(workdir), given, how, n=4, out=str(tmp_path))
  assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (8, 8, 8, 3)
  assert (tmp_path / "grid.png").exists()


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


def test_resuming_is_exact(workdir, tmp_path):
  """Four updates at once, and two and two: the same parameters, bit for bit."""
  config = toy(workdir=str(tmp_path), steps=2)
  train(config)
  assert len(losses(tmp_path)) == 2
  train(dataclasses.replace(config, steps=4))
  for which in ("ema", "params", "memory"):
    one, other = (
      training.restore_params(path / "checkpoints", which)
      for path in (workdir, tmp_path)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
  assert losses(workdir) == losses(tmp_path)


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


def test_losses_of_eps():
  """A network that is off by a constant: its square, its absolute value."""
  process = model.make_process(CONFIGS["cin256"])
  z = jnp.zeros((64, 4, 4, 3))  # so that z_t = sigma_t eps
  off = lambda z_t, t: z_t / process.sigma(t)[:, None, None, None] - 3.0
  for norm, wanted in (("l2", 9.0), ("l1", 3.0)):
    found = model.eps_loss(process, off, jax.random.key(0), z, norm)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_conditions_are_hidden_at_their_rate():
  """10% of 4000, within four standard deviations; others stay."""
  labels = jnp.arange(4000) % 10
  found = conditions.hide(jax.random.key(0), 0.1, labels, 10)
  share = (found == 10).mean()
  assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
  assert (found == labels)[found != 10].all()
  tokens = jnp.broadcast_to(labels[:, None], (4000, 5))
  found = conditions.hide(jax.random.key(0), 0.1, tokens, np.arange(50, 55))
  hidden = found[:, 0] == 50
  assert hidden.mean() == share
  assert (found[hidden] == np.arange(50, 55)[None]).all()
  assert (found[~hidden] == tokens[~hidden]).all()


def test_boxes_are_the_original_tokens():
  """The example in the original's source: of 16 tokens, 6 and 15."""
  boxes = [(3, 2 / 3, 1 / 3, 1.0, 1.0), (1, 0.0, 0.0, 0.2, 0.2)]
  found = layout.layout_tokens(boxes, 11, 16, (0.5, 0.0, 1.0, 1.0))
  # The second box is out of sight; the crop goes from (0.5, 0) to (1, 1).
  assert found.tolist() == [3, 6, 15, 15, 15, 15, 15, 15, 15, 2, 15]
  # 90 x 90 positions of 8192 tokens.
  found = layout.layout_tokens([(7, 0.25, 0.5, 0.75, 1.0)])
  assert found[:6].tolist() == [7, 44 * 90 + 22, 89 * 90 + 67, *[8191] * 3]
  assert found[-2:].tolist() == [0, 8099]
  assert found.shape == (92,)
  with pytest.raises(ValueError, match="a box is"):
    layout.layout_tokens([(0, 0.5, 0.0, 0.2, 1.0)])
  with pytest.raises(ValueError, match=r"must lie in \[0, 8191\)"):
    layout.layout_tokens([(8191, 0.0, 0.0, 1.0, 1.0)])


def test_boxes_of_a_data_set():
  example = {
    "image": np.zeros((100, 200, 3), np.uint8),
    "bobjects": {
      "label": [5, 2],
      "bbox": [[0.0, 0.1, 0.2, 0.3], [0.5, 0.5, 1.0, 1.0]],
      "is_group_of": [0, 1],
      "is_depiction": [-1, 1],
    },
  }
  found = layout.boxes_of(example, 601)
  assert [box[0] for box in found] == [5, 2 + 601 * (1 + 4)]
  np.testing.assert_allclose(found[0][1:], (0.1, 0.0, 0.3, 0.2), atol=1e-7)
  assert layout.central_square(100, 200) == (0.25, 0.0, 0.75, 1.0)
  with pytest.raises(ValueError, match="needs a data set with boxes"):
    layout.boxes_of({"image": 0}, 601)


def test_images_as_conditions(frozen):
  """What is appended to x: the release's inpainting and super-resolution."""
  config = toy("mask", cond_dropout=0.0, cache_latents=False)
  x = jnp.asarray(data.to_unit(images(2)))
  holes = jnp.zeros((2, 8, 8), bool).at[:, 1:5, :3].set(True)
  told = conditions.with_hole(x, holes)
  assert (told[..., 3] == np.where(holes, 1, -1)).all()
  _, concat = conditions.encode(config, TINY, {"first_stage": frozen}, told)
  seen = jnp.where(holes[..., None], -1.0, x)
  mean = first_stage.encode(TINY, frozen, seen)[..., :3]
  np.testing.assert_allclose(concat[..., :3], mean, atol=1e-5)
  # Nearest pixels: rows 0, 2, 4, 6; of them 2 and 4 lie in the hole.
  wanted = np.array([[-1, -1], [1, 1], [1, 1], [-1, -1]])
  np.testing.assert_array_equal(concat[0, :, :2, 3], wanted)
  assert (concat[..., 2:, 3] == -1).all()
  low_res = toy("low_res", cond_dropout=0.0, cache_latents=False)
  smaller = conditions.reduce(x, 4)
  assert conditions.encode(low_res, TINY, {}, smaller) == (None, smaller)
  kept = sample.keep_outside(np.zeros((2, 8, 8, 3), np.uint8), told)
  np.testing.assert_array_equal(kept, np.where(holes[..., None], 0, images(2)))


def test_holes_are_of_all_sizes():
  holes = conditions.draw_holes(jax.random.key(0), (200, 32, 32))
  share = holes.mean((1, 2))
  assert 0 < share.min() < 0.02
  assert 0.3 < share.max() < 0.8


@pytest.mark.parametrize(
  ("condition", "changes"),
  [
    ("mask", {"concat_channels": 4, "loss": "l1"}),
    ("low_res", {"concat_channels": 3, "low_res_size": 4}),
    ("segmentation", {"concat_channels": 3, "num_classes": 5}),
  ],
)
def test_conditions_beside_the_latents_fit(condition, changes, frozen):
  """Shapes alone: nothing is compiled."""
  config = toy(
    condition,
    cond_dropout=0.0,
    context_dim=None,
    cache_latents=False,
    **changes,
  )
  networks = model.make_networks(config, TINY)
  params = jax.eval_shape(
    lambda key: model.init_params(config, networks.unet, key),
    jax.random.key(0),
  )
  memory = model.init_memory(config, frozen)
  batch = {
    "image": jnp.zeros((2, 8, 8, 3)),
    "segmentation": jnp.zeros((2, 8, 8), jnp.int32),
  }
  loss = model.make_loss(config, model.make_process(config), networks, None)
  value, _, after = jax.eval_shape(
    loss, params, jax.random.key(0), batch, memory
  )
  assert value.shape == after["scale"].shape == ()


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


def test_user_errors(workdir, tmp_path):
  with pytest.raises(ValueError, match="needs a first stage: --first-stage"):
    train(dataclasses.replace(toy(), first_stage=""))
  with pytest.raises(ValueError, match=r"diffuses latents \(8, 8, 3\)"):
    model.make_networks(toy(latent_size=8), TINY)
  with pytest.raises(FileNotFoundError, match="neither a workdir nor NAME"):
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
