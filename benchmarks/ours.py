"""Our side: the same cases in jaxgen, compiled."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxlib

from benchmarks.cases import CLIP_NORM, EMA_DECAY, LR, Case
from jaxgen import diffusion, training
from jaxgen.nn.ddpm_unet import UNet
from jaxgen.nn.inception import Inception


def about() -> str:
  """Versions and devices."""
  return (
    f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, "
    f"{jax.device_count()} {jax.default_backend()} device(s)"
  )


def prepare(case: Case) -> Callable[[], None]:
  """A function that runs the case once."""
  mesh = training.make_mesh()
  key = jax.random.key(0)
  shape = (case.batch, case.size, case.size, case.channels)
  x = training.shard_batch(mesh, jax.random.normal(key, shape))
  if case.kind == "inception":
    network = Inception()
    params = jax.jit(network.init)(key, x[:1])["params"]
    features = jax.jit(lambda p, x: network.apply({"params": p}, x)[0])
    return _timed(features, params, jnp.clip(x, -1, 1))
  process = diffusion.DiscreteProcess.from_betas(diffusion.linear_betas())
  if case.trivial:
    return _sample(case, process, lambda params, x, t: 0.1 * x, {}, x)
  unet = UNet(
    case.widths[0],
    tuple(width // case.widths[0] for width in case.widths),
    dropout=case.dropout,
  )
  params = jax.jit(unet.init)(key, x[:1], 0)["params"]
  if case.kind == "train":
    return _train(process, unet, params, x, mesh)
  if case.kind == "forward":
    t = jnp.arange(case.batch)
    return _timed(
      jax.jit(lambda p, x: unet.apply({"params": p}, x, t)), params, x
    )

  def network(params, x, t):
    return unet.apply({"params": params}, x, t - 1)

  return _sample(case, process, network, params, x)


def _sample(case, process, network, params, x) -> Callable[[], None]:
  samplers = {"ddim": diffusion.ddim, "ancestral": diffusion.ancestral}
  times = diffusion.uniform_times(1000, case.steps)

  def sample(params, x):
    denoiser = diffusion.eps_denoiser(
      process, lambda x, t: network(params, x, t)
    )
    sampler = samplers[case.kind](process, denoiser)
    return diffusion.sample(jax.random.key(1), x, times, sampler)

  return _timed(jax.jit(sample), params, x)


def _timed(function, *args) -> Callable[[], None]:
  return lambda: jax.block_until_ready(function(*args))


def _train(process, unet, params, x, mesh) -> Callable[[], None]:
  def loss(params, key, batch):
    key, dropout_key = jax.random.split(key)

    def network(x, t):
      return unet.apply(
        {"params": params},
        x,
        t - 1,
        deterministic=False,
        rngs={"dropout": dropout_key},
      )

    return diffusion.simple_loss(process, network, key, batch)

  optimizer = training.adam(LR, clip_norm=CLIP_NORM)
  step = training.make_train_step(
    loss, optimizer, training.constant_ema(EMA_DECAY), mesh
  )
  state = training.init_state(params, optimizer, jax.random.key(1))
  state = training.shard_state(mesh, state)

  def run():
    nonlocal state
    state, _ = step(state, x)
    jax.block_until_ready(state)

  return run
