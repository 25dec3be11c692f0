"""How to sample from Stable Diffusion 1: options, their checks, their grids."""

import dataclasses
import math
from typing import Literal

import jax
import numpy as np

import jaxgen.diffusion as jd
from jaxgen.convert import sd1
from jaxgen.nn.autoencoder import downsampling_factor

DISCRETE = jd.DiscreteProcess.from_betas(jd.scaled_linear_betas())
BETWEEN = jd.InterpolatedProcess(DISCRETE)


@dataclasses.dataclass(frozen=True)
class How:
  """How to sample.

  Attributes:
    sampler: "plms" (pseudo linear multistep) is the release's default, "ddim"
      its other; "dpmpp" is DPM-Solver++(2M), "euler" and "euler_a" are
      k-diffusion's, deterministic and ancestral.
    steps: of the sampler; for "plms" and "ddim" a divisor of 1000.
    scale: of classifier-free guidance; 1 is none and takes one pass of the
      network in place of two.
    eta: DDIM's.
    karras: the noise levels of Karras et al. 2022, Eq. 5, for the samplers that
      are not the release's.
    height: of the images; by default 512, or that of the image to start from.
    width: likewise.
    dtype: of the computation of U-Net and text encoder.
    vae_dtype: of the first stage's.
    tile_above: height or width above which the latent is decoded in tiles, of
      that size at most.
    query_chunk: how many queries of an attention are computed at a time, which
      takes less memory; all by default.
    flash: cuDNN's attention, on GPUs, in bfloat16.
  """

  sampler: Literal["plms", "ddim", "dpmpp", "euler", "euler_a"] = "plms"
  steps: int = 50
  scale: float = 7.5
  eta: float = 0.0
  karras: bool = False
  height: int | None = None
  width: int | None = None
  dtype: Literal["float32", "bfloat16"] = "float32"
  vae_dtype: Literal["float32", "bfloat16"] = "float32"
  tile_above: int = 1024
  query_chunk: int | None = None
  flash: bool = False

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of the images."""
    height, width = (512 if n is None else n for n in (self.height, self.width))
    return height, width


def check(how: How, networks: sd1.Networks = sd1.SD1) -> None:
  """Raises ValueError where options do not go together, in one sentence."""
  unit = multiple(networks)
  if any(n < 1 or n % unit for n in how.size):
    raise ValueError(
      f"height and width must be multiples of {unit}, got {how.size[0]} x "
      f"{how.size[1]}"
    )
  if not math.isfinite(how.scale) or how.scale < 0:
    raise ValueError(f"scale must be at least 0, got {how.scale}")
  if how.eta and how.sampler != "ddim":
    raise ValueError(f"eta is DDIM's, got eta {how.eta} for {how.sampler}")
  if not 0 <= how.eta <= 1:
    raise ValueError(f"eta must lie in [0, 1], got {how.eta}")
  if how.karras and how.sampler in ("plms", "ddim"):
    raise ValueError(
      "karras takes sampler dpmpp, euler or euler_a, whose noise levels may "
      f"lie between the network's, got {how.sampler}"
    )
  f = downsampling_factor(networks.first_stage)
  if how.tile_above < 32 * f:
    raise ValueError(
      f"tile_above must be at least {32 * f}, got {how.tile_above}"
    )
  if how.flash and (how.dtype, jax.default_backend()) != ("bfloat16", "gpu"):
    raise ValueError(
      f"flash needs dtype bfloat16 and a GPU, got {how.dtype} on "
      f"{jax.default_backend()}"
    )
  make_times(how)


def check_strength(strength: float, steps: int) -> None:
  """Raises ValueError where `kept_times` would leave no step or too many."""
  if not 0 < strength <= 1 or int(strength * steps) < 1:
    raise ValueError(
      f"strength must lie in (0, 1] and leave one of the {steps} steps, got "
      f"{strength}"
    )


def multiple(networks: sd1.Networks) -> int:
  """What height and width of images are multiples of: 64 for SD1."""
  levels = len(networks.unet.channel_mult)
  return downsampling_factor(networks.first_stage) * 2 ** (levels - 1)


def process_of(how: How) -> jd.Process:
  """The forward process, at whole times alone for the release's samplers."""
  return DISCRETE if how.sampler in ("plms", "ddim") else BETWEEN


def make_times(how: How) -> np.ndarray:
  """The sampler's grid `[steps + 1]`.

  The release's for its own samplers. For "dpmpp" whole times, evenly spread, as
  in diffusers; for Euler's k-diffusion's, which are not rounded.

  Raises:
    ValueError: the number of steps does not fit.
  """
  if how.sampler in ("plms", "ddim"):
    return jd.sd1_times(how.steps)
  if how.karras:
    levels = jd.karras_times(how.steps, BETWEEN.sigma_min, BETWEEN.sigma_max)
    return jd.times_of_sigmas(BETWEEN, levels)
  times = jd.linspace_times(1000, how.steps)
  if how.sampler != "dpmpp":
    return times
  whole = np.rint(np.linspace(0, 999, how.steps + 1))[:0:-1] + 1
  return np.append(whole, 0).astype(np.float32)


def kept_times(how: How, strength: float) -> np.ndarray:
  """The last int(strength * steps) steps: `jd.image_to_image`'s grid."""
  check_strength(strength, how.steps)
  return make_times(how)[how.steps - int(strength * how.steps) :]


def make_sampler(how: How, denoiser: jd.Denoiser) -> jd.Sampler:
  """The sampler."""
  process = process_of(how)
  if how.sampler == "plms":
    return jd.plms(process, denoiser)
  if how.sampler == "dpmpp":
    return jd.dpm_solver_pp_2m(process, denoiser)
  eta = {"ddim": how.eta, "euler": 0.0, "euler_a": 1.0}[how.sampler]
  return jd.ddim(process, denoiser, eta)
