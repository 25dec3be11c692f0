"""Whole models, at reduced width, exchanged with diffusers' pipeline."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import quick_jit, random_state
from small_vocabularies import write_clip_files

from jaxgen.convert import sd1, sd1_folder
from jaxgen.diffusion.denoisers import eps_denoiser
from jaxgen.diffusion.guidance import classifier_free
from jaxgen.diffusion.loop import sample
from jaxgen.diffusion.processes import DiscreteProcess
from jaxgen.diffusion.samplers import ddim
from jaxgen.diffusion.schedules import scaled_linear_betas
from jaxgen.nn.autoencoder import AutoencoderKL
from jaxgen.nn.clip_text import ClipText
from jaxgen.nn.ldm_unet import UNet

TINY = sd1.Networks(
  UNet(32, (1, 2), 1, attention_resolutions=(1,), num_heads=2, context_dim=16),
  AutoencoderKL(channels=32, channel_mult=(1, 2), num_res_blocks=1),
  ClipText(525, 16, 2, 2, 32, end_token=524),
)
PARTS = ("unet", "vae", "text_encoder")
SCHEDULE = {
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "set_alpha_to_one": False,
  "steps_offset": 1,
}
# Of no meaning for what the networks compute.
IGNORED = ("sample_size", "pad_token_id", "dtype", "transformers_version")


def options(model):
  """A model's configuration, as JSON has it."""
  source = model if hasattr(model, "to_json_string") else model.config
  config = json.loads(source.to_json_string())
  return {k: v for k, v in config.items() if k not in IGNORED and k[0] != "_"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  """Stable Diffusion 1 as diffusers builds it, narrower, its weights random."""
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  transformers = pytest.importorskip("transformers")
  vocab, merges = write_clip_files(tmp_path_factory.mktemp("vocabulary"))
  parts = {
    "unet": diffusers.UNet2DConditionModel(
      block_out_channels=(32, 64),
      layers_per_block=1,
      down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
      up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
      cross_attention_dim=16,
      attention_head_dim=2,
    ),
    "vae": diffusers.AutoencoderKL(
      down_block_types=("DownEncoderBlock2D",) * 2,
      up_block_types=("UpDecoderBlock2D",) * 2,
      block_out_channels=(32, 64),
      latent_channels=4,
    ),
    "text_encoder": transformers.CLIPTextModel(
      transformers.CLIPTextConfig(
        vocab_size=525,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=524,
        bos_token_id=523,
      )
    ),
  }
  for model in parts.values():
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    random = random_state(shapes)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in random.items()})
    model.eval()
  scheduler = diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
  return diffusers.StableDiffusionPipeline(
    **parts,
    tokenizer=transformers.CLIPTokenizer(
      str(vocab), str(merges), model_max_length=77
    ),
    scheduler=scheduler,
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
  )


@pytest.fixture(scope="module")
def params(pipeline, tmp_path_factory):
  folder = tmp_path_factory.mktemp("theirs")
  pipeline.save_pretrained(folder)
  return sd1.load(folder, TINY)


def test_diffusers_loads_our_folder(pipeline, params, tmp_path):
  vocabulary = tmp_path / "vocabulary"
  vocabulary.mkdir()
  write_clip_files(vocabulary)
  sd1_folder.save(tmp_path / "model", params, TINY, vocabulary)
  again = type(pipeline).from_pretrained(tmp_path / "model")
  for name in PARTS:
    ours, theirs = getattr(again, name), getattr(pipeline, name)
    assert options(ours) == options(theirs)
    state = ours.state_dict()
    for key, tensor in theirs.state_dict().items():
      np.testing.assert_array_equal(state[key].numpy(), tensor.numpy())
  theirs = options(pipeline.scheduler)
  assert theirs.items() <= options(again.scheduler).items()
  texts = ["The cat's hat!", "a" * 200]
  ours, theirs = (
    p.tokenizer(texts, padding="max_length", truncation=True).input_ids
    for p in (again, pipeline)
  )
  np.testing.assert_array_equal(ours, theirs)


def test_prompts_become_the_same_context(pipeline, params, tmp_path):
  vocabulary = tmp_path / "tokenizer"
  vocabulary.mkdir()
  write_clip_files(vocabulary)
  prompts = ["The cat's hat, and the CAT!", ""]
  theirs, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
  tokens = sd1_folder.load_tokenizer(tmp_path)(prompts)
  network = TINY.text_encoder
  ours = quick_jit(network.apply)(
    {"params": params.text_encoder}, jnp.asarray(tokens)
  )
  theirs = theirs.detach().numpy()
  error = np.linalg.norm(ours.hidden - theirs) / np.linalg.norm(theirs)
  assert error <= 1e-5


@pytest.mark.slow
def test_images_equal_the_pipeline(pipeline, params, tmp_path):
  """Text, guidance, four steps of DDIM and the decoder, from one noise."""
  import diffusers
  import torch

  vocabulary = tmp_path / "tokenizer"
  vocabulary.mkdir()
  write_clip_files(vocabulary)
  noise = np.random.RandomState(3).standard_normal((1, 16, 16, 4))
  noise = noise.astype(np.float32)
  pipeline.scheduler = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False)
  theirs = pipeline(
    "the cat and the hat",
    num_inference_steps=4,
    guidance_scale=7.5,
    height=32,
    width=32,
    latents=torch.from_numpy(noise.transpose(0, 3, 1, 2)),
    output_type="pt",
  ).images.numpy()

  process = DiscreteProcess.from_betas(scaled_linear_betas())
  tokens = sd1_folder.load_tokenizer(tmp_path)(["the cat and the hat", ""])

  def image(params, noise, tokens):
    text = TINY.text_encoder.apply({"params": params.text_encoder}, tokens)

    def denoiser(context):
      variables = {"params": params.unet}
      network = lambda x, t: TINY.unet.apply(variables, x, t - 1, context)
      return eps_denoiser(process, network)

    conditional, without = map(denoiser, (text.hidden[:1], text.hidden[1:]))
    guided = classifier_free(process, conditional, without, 7.5)
    times = np.array([752, 502, 252, 2, 1])
    key = jax.random.key(0)
    z = sample(key, noise, times, ddim(process, guided)) / sd1.SCALE_FACTOR
    variables = {"params": params.first_stage}
    return TINY.first_stage.apply(variables, z, method="decode")

  ours = quick_jit(image)(params, noise, jnp.asarray(tokens))
  ours = np.clip(ours / 2 + 0.5, 0, 1).transpose(0, 3, 1, 2)
  assert np.std(theirs) > 0.05
  error = np.abs(ours - theirs).max()
  assert error <= 1e-4
