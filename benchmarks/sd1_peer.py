"""The peer, diffusers in PyTorch: eager on a CPU, torch.compile on a GPU."""

import os
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from benchmarks.cases import weights
from benchmarks.sd1_cases import SCALE, Case, latents, tokens
from benchmarks.suite_torch import DEVICE, synchronised
from jaxgen.convert import sd1_folder


def prepare(case: Case) -> Callable[[], torch.Tensor]:
  """A function that runs the case once, and returns what it computes."""
  torch.set_num_threads(os.cpu_count() or 1)
  pipe = _pipeline(case)
  dtype = getattr(torch, case.dtype)
  z = torch.from_numpy(latents(case)).permute(0, 3, 1, 2).contiguous()
  z = z.to(DEVICE, dtype)
  empty, texts = torch.from_numpy(tokens(case)).long().to(DEVICE)
  width = case.networks.unet.context_dim or 1
  context = torch.zeros(2 * case.batch, 77, width, device=DEVICE, dtype=dtype)

  def compute() -> torch.Tensor:
    if case.kind == "decode":
      return pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    if case.kind == "unet":
      return pipe.unet(torch.cat([z, z]), 500, context).sample
    return pipe(
      prompt_embeds=pipe.text_encoder(texts)[0],
      negative_prompt_embeds=pipe.text_encoder(empty)[0],
      latents=z,
      height=case.size,
      width=case.size,
      num_inference_steps=case.steps,
      guidance_scale=SCALE,
      output_type="pt",
    ).images

  return torch.no_grad()(synchronised(compute))


def _pipeline(case: Case) -> Any:
  """Stable Diffusion of the case's networks, with DPM-Solver++(2M)."""
  unet, vae, text = case.networks
  levels = len(vae.channel_mult)
  parts: dict[str, Any] = {
    "unet": diffusers.UNet2DConditionModel(**sd1_folder.unet_config(unet)),
    "vae": diffusers.AutoencoderKL(
      block_out_channels=[vae.channels * m for m in vae.channel_mult],
      down_block_types=["DownEncoderBlock2D"] * levels,
      up_block_types=["UpDecoderBlock2D"] * levels,
      layers_per_block=vae.num_res_blocks,
      latent_channels=vae.z_channels,
    ),
    "text_encoder": transformers.CLIPTextModel(
      transformers.CLIPTextConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.width,
        intermediate_size=text.mlp_width,
        num_hidden_layers=text.num_layers,
        num_attention_heads=text.num_heads,
        eos_token_id=text.end_token,
      )
    ),
  }
  for model in parts.values():
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    state = {k: torch.from_numpy(v) for k, v in weights(shapes).items()}
    model.load_state_dict(state)
    model.to(DEVICE, getattr(torch, case.dtype)).eval()
  pipe: Any = diffusers.StableDiffusionPipeline(
    **parts,
    tokenizer=None,
    scheduler=diffusers.DPMSolverMultistepScheduler(
      beta_schedule="scaled_linear",
      beta_start=0.00085,
      beta_end=0.012,
      steps_offset=1,
    ),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
  )
  pipe.set_progress_bar_config(disable=True)
  if DEVICE == "cuda":  # channels last is the layout that is faster there
    for model in (pipe.unet, pipe.vae):
      model.to(memory_format=torch.channels_last)
    pipe.unet = torch.compile(pipe.unet)
    pipe.vae.decode = torch.compile(pipe.vae.decode)
  return pipe


def to_numpy(images: torch.Tensor) -> np.ndarray:
  """In our layout, for comparisons."""
  return images.float().cpu().permute(0, 2, 3, 1).numpy()
