"""The scripts of experiments/sd1, on a tiny model of random weights."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import tiny_sd1
import tyro
from random_openai import random_state
from small_vocabularies import write_clip_files

import jaxgen
from experiments.cli import command_line
from experiments.sd1 import config, files, parts, pipeline, task, weights
from experiments.sd1 import img2img as image_script
from experiments.sd1 import inpaint as inpaint_script
from experiments.sd1 import txt2img as text_script
from experiments.sd1.config import How
from experiments.sd1.pipeline import Request, Start
from experiments.sd1.prompts import encode
from experiments.sd1.task import Task
from jaxgen import training
from jaxgen.convert import sd1
from jaxgen.convert.state import write_safetensors
from jaxgen.data import save_png

pytest.importorskip("tokenizers")

TINY = tiny_sd1.TINY
REQUESTS = [Request("the cat", "a hat", i) for i in range(4)]
HOW = How("euler_a", 3, height=8, width=8)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  tiny_sd1.compile_quickly(monkeypatch)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """A single file, with the vocabulary beside it."""
  folder = tmp_path_factory.mktemp("weights")
  write_clip_files(folder)
  x, t, tokens = np.zeros((1, 8, 8, 3)), np.zeros(1), np.zeros((1, 1), int)
  key, context = jax.random.key(0), np.zeros((1, 1, 16))
  z = np.zeros((1, 8, 8, 4))
  inits = (TINY.unet.init, TINY.first_stage.init, TINY.text_encoder.init)
  inputs = ((z, t, context), (x,), (tokens,))
  zeros = lambda leaf: np.zeros(leaf.shape, np.float32)
  empty = sd1.Params(
    *(
      jax.tree.map(zeros, jax.eval_shape(init, key, *args)["params"])
      for init, args in zip(inits, inputs, strict=True)
    )
  )
  shapes = {k: v.shape for k, v in sd1.to_original(empty, TINY).items()}
  write_safetensors(folder / "model.safetensors", random_state(shapes))
  return folder / "model.safetensors"


@pytest.fixture(scope="module")
def model(path):
  return weights.load(path, networks=TINY)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
  """An image, larger than a multiple of 8, and a mask."""
  folder = tmp_path_factory.mktemp("pictures")
  rng = np.random.RandomState(0)
  save_png(folder / "init.png", rng.randint(0, 256, (18, 16, 3), np.uint8))
  mask = np.zeros((18, 16, 1), np.uint8)
  mask[:9] = 255
  save_png(folder / "mask.png", mask)
  return folder


def patched(monkeypatch):
  """Scripts that take the tiny model, and images of multiples of 8."""
  load = functools.partial(weights.load, networks=TINY)
  monkeypatch.setattr(task, "load", load)
  monkeypatch.setattr(config, "multiple", lambda networks: 8)
  return load


def one_device():
  return training.make_mesh(devices=jax.devices()[:1])


def test_an_image_is_its_seeds_alone(model):
  """Not its batch's, nor the devices'; nor how the programs are cut."""
  on_all = pipeline.sample(model, HOW, REQUESTS)
  alone = pipeline.sample(
    model, HOW, REQUESTS[2:3], progress=False, mesh=one_device()
  )
  # The programs of one image and of four round apart, by some 1e-5.
  assert np.abs(alone[0] - on_all[2]).max() < 1e-4
  assert np.abs(on_all[0] - on_all[1]).max() > 0.1


def test_text_to_image_script(path, monkeypatch, tmp_path, capsys):
  load = patched(monkeypatch)
  made = Task(
    ("the cat", "an “été”"), str(path), "a hat", 2, 7, out=str(tmp_path)
  )
  how = How("dpmpp", 2, 1.0, karras=True, height=16, width=16)
  for _ in range(2):
    text_script.main(made, how)
  assert "4 images in" in capsys.readouterr().out
  names = sorted(p.name for p in tmp_path.iterdir())
  assert names == [f"{i:05d}.png" for i in range(8)] + [
    f"grid-0000{i}.png" for i in (0, 4)
  ]
  assert files.read_parameters(tmp_path / "00003.png") == {
    "prompt": "an “été”",
    "negative": "a hat",
    "seed": "8",
    "sampler": "dpmpp",
    "steps": "2",
    "scale": "1.0",
    "size": "16x16",
    "dtype": "float32",
    "vae_dtype": "float32",
    "weights": "model.safetensors",
    "weights_sha256": load(path).digest,
    "jaxgen": jaxgen.__version__,
    "karras": "true",
  }
  first, again = (
    files.read_image(tmp_path / f"0000{i}.png", (16, 16), 8) for i in (3, 7)
  )
  np.testing.assert_array_equal(first, again)


@pytest.mark.slow
def test_image_scripts(path, picture, monkeypatch, tmp_path):
  patched(monkeypatch)
  made = Task(("the cat",), str(path), n=1, out=str(tmp_path), progress=False)
  init, mask = str(picture / "init.png"), str(picture / "mask.png")
  image_script.main(made, init, 0.5, How("ddim", 4))
  inpaint_script.main(made, init, mask, how=How("ddim", 2, eta=1.0))
  first, second = (
    files.read_parameters(tmp_path / f"0000{i}.png") for i in (0, 1)
  )
  assert (first["size"], first["strength"]) == ("16x16", "0.5")
  assert (second["mask"], second["strength"], second["eta"]) == (
    mask,
    "1.0",
    "1.0",
  )
  start = files.read_image(init, (None, None), 8)
  painted = files.read_image(tmp_path / "00001.png", (None, None), 8)
  known = ~files.read_mask(mask, 16, 16)
  np.testing.assert_array_equal(painted[known], start[known])
  assert np.abs(painted[~known].astype(int) - start[~known]).mean() > 5


@pytest.mark.slow
def test_half_precision_and_slices(model):
  """Attention in slices is exact; bfloat16 leaves images what they are."""
  mesh = one_device()
  draw = lambda how: pipeline.sample(model, how, REQUESTS[:2], mesh=mesh)
  whole = draw(HOW)
  sliced = draw(dataclasses.replace(HOW, query_chunk=5))
  assert np.abs(sliced - whole).max() < 1e-4
  half = draw(dataclasses.replace(HOW, dtype="bfloat16", vae_dtype="bfloat16"))
  assert 1e-4 < np.abs(half - whole).mean() < 0.1 * whole.std()


def test_large_images_are_decoded_in_tiles(model):
  how = How(tile_above=64)
  z = jax.random.normal(jax.random.key(0), (1, 34, 32, 4))
  tiled, whole = (
    jax.jit(functools.partial(parts.end, TINY, how))(model.params, z)
    for how in (how, How())
  )
  assert tiled.shape == whole.shape == (1, 68, 64, 3)
  error = np.abs(tiled - whole).mean(axis=(0, 2, 3))
  assert 0 < error.max() < 0.5 * np.abs(whole).mean()


def test_lost_words_are_named(model, capsys):
  cut = "the cat and the hat " * 12 + "bb"
  tokens = encode(model.tokenizer, ["the cat", cut, cut])
  assert tokens.shape == (3, 77)
  message = capsys.readouterr().err
  assert message.count("\n") == 1
  assert message.endswith("lost: hat the cat and the hat bb\n")
  kept = cut.split()[: -len(message.split(": ")[-1].split())]
  assert model.tokenizer.rules.encode(" ".join(kept)).overflowing == []


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"height": 520},
      "height and width must be multiples of 64, got 520 x 512",
    ),
    ({"scale": -1.0}, "scale must be at least 0, got -1"),
    ({"eta": 0.5}, "eta is DDIM's, got eta 0.5 for plms"),
    ({"eta": 2.0, "sampler": "ddim"}, "eta must lie in"),
    ({"karras": True}, "karras takes sampler dpmpp, euler or euler_a"),
    ({"steps": 30}, "30, for which the released code takes 31 steps"),
    ({"sampler": "euler", "steps": 0}, "the number of steps must lie in"),
    ({"tile_above": 64}, "tile_above must be at least 256, got 64"),
    (
      {"flash": True},
      "flash needs dtype bfloat16 and a GPU, got float32 on cpu",
    ),
  ],
)
def test_options_that_do_not_go_together(options, message):
  with pytest.raises(ValueError, match=message):
    config.check(How(**options))


def test_mistakes_are_one_sentence(picture, monkeypatch, tmp_path):
  init = str(picture / "init.png")
  missing = Task(("a",), str(tmp_path / "sd-v1-4.ckpt"))
  with pytest.raises(FileNotFoundError, match="CompVis/stable-diffusion-v1-4"):
    text_script.main(missing)
  with pytest.raises(ValueError, match="at least one prompt"):
    text_script.main(Task((), "a"))
  for strength in (0.0, 1.5, 0.01):
    with pytest.raises(ValueError, match="strength must lie in"):
      image_script.main(missing, init, strength)
  monkeypatch.setattr(config, "multiple", lambda networks: 8)
  with pytest.raises(FileNotFoundError, match="there is no image"):
    inpaint_script.main(missing, init, "mask.png")
  with pytest.raises(ValueError, match="18 x 16 pixels, at least 64 x 64"):
    files.read_image(init, (None, None), 64)


def test_requests_are_checked(model):
  with pytest.raises(ValueError, match="a seed must lie in"):
    pipeline.sample(model, HOW, [Request("a", seed=-1)])
  with pytest.raises(ValueError, match="at least one image and a batch size"):
    pipeline.sample(model, HOW, [])
  odd = model._replace(
    networks=TINY._replace(unet=TINY.unet.clone(concat_channels=3))
  )
  start = Start(np.zeros((8, 8, 3), np.uint8))
  with pytest.raises(ValueError, match="sees 3 channels beside the latent"):
    pipeline.sample(odd, HOW, REQUESTS, start)


def test_a_tokenizer_of_another_model_is_refused(path, tmp_path):
  vocab, _ = write_clip_files(tmp_path)
  tokens = json.loads(vocab.read_text())
  vocab.write_text(json.dumps(tokens | {"more": len(tokens)}))
  with pytest.raises(ValueError, match="has 526 tokens, the text encoder of"):
    weights.load(path, tokenizer=tmp_path, networks=TINY)
  vocab.unlink()
  with pytest.raises(FileNotFoundError, match=r"vocab\.json is published"):
    weights.load(path, tokenizer=tmp_path, networks=TINY)


def test_the_command_line(tmp_path):
  arguments = ["--prompt", "a", "b", "--weights", str(tmp_path / "none")]
  with pytest.raises(SystemExit, match="error: there are no weights"):
    command_line(lambda: tyro.cli(text_script.main, args=arguments))
