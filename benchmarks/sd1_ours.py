"""Our side: the same cases in jaxgen, compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import weights
from benchmarks.sd1_cases import SCALE, Case, latents, tokens
from benchmarks.suite_jax import flops_of
from experiments.sd1 import config, parts
from experiments.sd1.config import How
from jaxgen import diffusion
from jaxgen.convert import clip, first_stage, ldm_unet, sd1


def prepare(case: Case) -> Callable[[], Any]:
  """A function that runs the case once, and returns what it computes."""
  run = jax.jit(program(case))
  args = jax.device_put((params(case.networks), latents(case), tokens(case)))
  return lambda: jax.block_until_ready(run(*args))


def program(
  case: Case, kind: str = "", flash: bool | None = None
) -> Callable[..., Any]:
  """(params, latents, tokens) -> what a case computes.

  Args:
    case: the case.
    kind: in the place of the case's.
    flash: whether cuDNN's attention is used; by default where there is one.
  """
  networks, how = case.networks, _how(case, flash)
  kind = kind or case.kind

  def told(p, texts):
    text: Any = networks.text_encoder.clone(dtype=jnp.dtype(case.dtype))
    hidden = lambda t: text.apply({"params": p.text_encoder}, t).hidden
    return {
      "no_context": hidden(texts[0]),
      "context": hidden(texts[1]),
      "scale": jnp.float32(SCALE),
    }

  def run(p, z, texts):
    if kind == "decode":
      return parts.end(networks, how, p, z)
    if kind == "unet":
      unet = networks.unet.clone(dtype=jnp.dtype(case.dtype), flash=how.flash)
      twice = jnp.concatenate([z, z])
      context = jnp.zeros((len(twice), 77, unet.context_dim))
      return unet.apply({"params": p.unet}, twice, 500, context)
    sampler = parts.sampler_of(networks, how, p, told(p, texts))
    key, times = jax.random.key(0), config.make_times(how)
    x = diffusion.sample(key, z, times, sampler)
    return parts.end(networks, how, p, x)

  return run


def params(networks: sd1.Networks) -> sd1.Params:
  """The weights that the peer has, too."""
  zeros = lambda leaf: np.zeros(leaf.shape, np.float32)
  empty = jax.tree.map(zeros, shapes(networks))
  unet = ldm_unet.to_diffusers(empty.unet, networks.unet)
  vae = first_stage.to_diffusers(empty.first_stage, networks.first_stage)
  text = clip.to_transformers(empty.text_encoder)
  fill = lambda state: weights({k: v.shape for k, v in state.items()})
  return sd1.Params(
    ldm_unet.from_diffusers(fill(unet), networks.unet),
    first_stage.from_diffusers(fill(vae), networks.first_stage),
    clip.from_transformers(fill(text), networks.text_encoder),
  )


def shapes(networks: sd1.Networks) -> sd1.Params:
  """Of the parameters."""

  def init(key):
    z = jnp.zeros((1, 64, 64, 4))
    context = jnp.zeros((1, 77, networks.unet.context_dim or 1))
    image, tokens = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 77), jnp.int32)
    return sd1.Params(
      networks.unet.init(key, z, jnp.zeros(1), context)["params"],
      networks.first_stage.init(key, image)["params"],
      networks.text_encoder.init(key, tokens)["params"],
    )

  return jax.eval_shape(init, jax.random.key(0))


def flops(case: Case) -> float:
  """Of one run: those of the U-Net's calls and of the decoder."""

  def of(kind: str) -> float:
    args = (shapes(case.networks), latents(case), tokens(case))
    return flops_of(program(case, kind, flash=False), *args)

  if case.kind != "txt2img":
    return of(case.kind)
  return case.steps * of("unet") + of("decode")


def _how(case: Case, flash: bool | None = None) -> How:
  on_gpu = jax.default_backend() == "gpu"
  dtype: Any = case.dtype
  return How(
    "dpmpp",
    max(case.steps, 1),
    SCALE,
    height=case.size,
    width=case.size,
    dtype=dtype,
    vae_dtype=dtype,
    flash=on_gpu and dtype == "bfloat16" if flash is None else flash,
  )
