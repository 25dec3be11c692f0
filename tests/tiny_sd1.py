"""Stable Diffusion 1, tiny and with random weights, in its published layouts.

`pipeline` is built by diffusers' and transformers' own classes; `write_folder`
and `write_file` give its weights as diffusers' folder and as CompVis' file.
"""

import functools

import jax
import numpy as np
from random_openai import random_state
from small_vocabularies import write_clip_files

from jaxgen.convert import sd1
from jaxgen.nn.autoencoder import AutoencoderKL
from jaxgen.nn.clip_text import ClipText
from jaxgen.nn.ldm_unet import UNet

TINY = sd1.Networks(
  UNet(32, (1,), 1, attention_resolutions=(1,), num_heads=2, context_dim=16),
  AutoencoderKL(channels=32, channel_mult=(1, 2), num_res_blocks=1),
  ClipText(525, 16, 2, 2, 32, end_token=524),
)


def compile_quickly(monkeypatch):
  """Programs without most optimisations: compiling is what takes time."""
  options = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
  }
  quick_jit = functools.partial(jax.jit, compiler_options=options)
  monkeypatch.setattr(jax, "jit", quick_jit)


def pipeline(folder, in_channels=4):
  """diffusers' pipeline; `folder` gets its vocabulary."""
  import diffusers
  import torch
  import transformers

  vocab, merges = write_clip_files(folder)
  parts = {
    "unet": diffusers.UNet2DConditionModel(
      in_channels=in_channels,
      block_out_channels=(32,),
      layers_per_block=1,
      down_block_types=("CrossAttnDownBlock2D",),
      up_block_types=("CrossAttnUpBlock2D",),
      cross_attention_dim=16,
      attention_head_dim=2,
      sample_size=8,
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
  made = diffusers.StableDiffusionPipeline(
    **parts,
    tokenizer=transformers.CLIPTokenizer(
      str(vocab), str(merges), model_max_length=77
    ),
    # By name: other schedulers take over from its configuration only these.
    scheduler=diffusers.PNDMScheduler(
      beta_start=0.00085,
      beta_end=0.012,
      beta_schedule="scaled_linear",
      skip_prk_steps=True,
      set_alpha_to_one=False,
      steps_offset=1,
    ),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
  )
  made.set_progress_bar_config(disable=True)
  return made


def write_folder(folder, made):
  """diffusers' folder, with the vocabulary's files as published."""
  made.save_pretrained(folder)
  write_clip_files(folder / "tokenizer")


def write_file(path, params, networks=TINY):
  """A .ckpt as CompVis' training left them, with a vocabulary beside it."""
  import torch

  tensors = sd1.to_original(params, networks)
  state = {k: torch.from_numpy(np.array(x)) for k, x in tensors.items()}
  torch.save({"state_dict": state, "global_step": 470_000}, path)
  write_clip_files(path.parent)
