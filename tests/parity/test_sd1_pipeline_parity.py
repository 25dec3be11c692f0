"""Images of Stable Diffusion 1, end to end, against diffusers' pipelines.

The same weights, prompts and noise, in float32; the networks are tiny.
"""

import jax
import numpy as np
import pytest
import tiny_sd1

from experiments.sd1 import pipeline, weights
from experiments.sd1.config import How
from experiments.sd1.pipeline import Request, Start
from jaxgen import random, training

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

SIZE = (16, 24)
REQUESTS = [
  Request("The cat and the hat", "the hat!!", 3),
  Request("a " * 90, "", 2**32 - 1),
]
# name: diffusers' scheduler, what it takes beside the release's configuration
SCHEDULERS = {
  "plms": ("PNDMScheduler", {"timestep_spacing": "leading"}),
  "ddim": (
    "DDIMScheduler",
    {"timestep_spacing": "leading", "clip_sample": False},
  ),
  "dpmpp": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}),
  "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
}
# On images in [0, 1]; 5e-6 is what was reached.
BOUND = 5e-5


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  tiny_sd1.compile_quickly(monkeypatch)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
  return tiny_sd1.pipeline(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def model(theirs, tmp_path_factory):
  folder = tmp_path_factory.mktemp("folder")
  tiny_sd1.write_folder(folder, theirs)
  return weights.load(folder, networks=tiny_sd1.TINY)


@pytest.fixture(scope="module")
def image():
  return np.random.RandomState(0).randint(0, 256, (*SIZE, 3)).astype(np.uint8)


def noises(*streams):
  """What our images start from, in their layout; or other streams' noise."""
  seeds = np.array([request.seed for request in REQUESTS], np.uint32)
  keys = jax.vmap(jax.random.key)(seeds)
  for stream in streams:
    keys = random.fold_in(keys, stream)
  z = random.normal(keys, (*(n // 2 for n in SIZE), 4))
  return torch.from_numpy(np.array(z).transpose(0, 3, 1, 2))


def with_scheduler(pipe, name):
  kind, options = SCHEDULERS[name]
  config = pipe.scheduler.config
  pipe.scheduler = getattr(diffusers, kind).from_config(config, **options)
  return pipe


def images_of(pipe, how, **options):
  with torch.no_grad():
    found = pipe(
      [request.prompt for request in REQUESTS],
      negative_prompt=[request.negative for request in REQUESTS],
      num_inference_steps=how.steps,
      guidance_scale=how.scale,
      output_type="np",
      **options,
    )
  assert found.images.std() > 0.05
  return found.images


def assert_close(model, how, want, start=None):
  mesh = training.make_mesh(devices=jax.devices()[:1])
  found = pipeline.sample(model, how, REQUESTS, start, mesh=mesh)
  assert np.abs(np.clip(found / 2 + 0.5, 0, 1) - want).max() < BOUND


@pytest.mark.parametrize("name", SCHEDULERS)
def test_text_to_image(theirs, model, name):
  """PLMS needs no allowance: its look-ahead is the step that PNDM repeats."""
  scale = 1.0 if name == "ddim" else 7.5
  how = How(name, 5, scale, height=SIZE[0], width=SIZE[1])
  pipe = with_scheduler(theirs, name)
  size = dict(zip(("height", "width"), SIZE, strict=True))
  assert_close(model, how, images_of(pipe, how, latents=noises(), **size))


def test_image_to_image(theirs, model, image, monkeypatch):
  pipe = diffusers.StableDiffusionImg2ImgPipeline(
    **theirs.components, requires_safety_checker=False
  )
  pipe.set_progress_bar_config(disable=True)
  queue = [noises(2**31 - 1), noises()]  # of the posterior, of the start
  for module in (
    "models.autoencoders.vae",
    "pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
  ):
    monkeypatch.setattr(
      f"diffusers.{module}.randn_tensor", lambda *a, **k: queue.pop(0)
    )
  how = How("ddim", 10)
  pair = np.stack([image, image]) / np.float32(255)
  want = images_of(with_scheduler(pipe, "ddim"), how, image=pair, strength=0.55)
  assert not queue
  assert_close(model, how, want, Start(image, 0.55))


def test_the_inpainting_model(image, tmp_path, monkeypatch):
  """A U-Net of 9 channels sees mask and masked image as diffusers' does."""
  made = tiny_sd1.pipeline(tmp_path, in_channels=9)
  tiny_sd1.write_folder(tmp_path / "model", made)
  model = weights.load(tmp_path / "model", networks=tiny_sd1.TINY)
  pipe = diffusers.StableDiffusionInpaintPipeline(
    **made.components, requires_safety_checker=False
  )
  pipe.set_progress_bar_config(disable=True)
  monkeypatch.setattr(
    "diffusers.models.autoencoders.vae.randn_tensor",
    lambda *a, **k: noises(2**31 - 1),
  )
  mask = np.zeros(SIZE, bool)
  mask[3:9, 5:] = True
  how = How("ddim", 5)
  want = images_of(
    with_scheduler(pipe, "ddim"),
    how,
    image=np.stack([image, image]) / np.float32(255),
    mask_image=np.stack([mask, mask]).astype(np.float32),
    latents=noises(),
    height=SIZE[0],
    width=SIZE[1],
  )
  start = Start(image, 1.0, mask)
  assert_close(model, how, want, start)
  with pytest.raises(ValueError, match="is an inpainting model, it needs a ma"):
    pipeline.sample(model, how, REQUESTS)


def test_a_single_file_is_the_same_model(model, tmp_path):
  tiny_sd1.write_file(tmp_path / "model.ckpt", model.params)
  again = weights.load(tmp_path / "model.ckpt", networks=tiny_sd1.TINY)
  assert (again.name, again.digest) == ("model.ckpt", model.digest)
  assert again.networks == model.networks
  other = model.params._replace(unet=model.params.first_stage)
  assert weights.digest(other) != model.digest
