"""Our side: the same cases in jaxgen, compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from benchmarks.cases import CLIP_NORM, EMA_DECAY, LR, Case, images, weights
from jaxgen import diffusion, training
from jaxgen.convert import ddpm
from jaxgen.nn.ddpm_unet import UNet
from jaxgen.nn.inception import Inception


def about() -> str:
  """Versions and devices."""
  return (
    f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, "
    f"{jax.device_count()} {jax.default_backend()} device(s)"
  )


def prepare(case: Case) -> Callable[[], Any]:
  """A function that runs the case once, and returns what it computes."""
  mesh = training.make_mesh()
  key = jax.random.key(0)
  x = training.shard_batch(mesh, images(case))
  if case.kind == "inception":
    network = Inception()
    params = jax.jit(network.init)(key, x[:1])["params"]
    features = jax.jit(lambda p, x: network.apply({"params": p}, x)[0])
    return _timed(features, params, jnp.clip(x, -1, 1))
  T = case.steps if case.kind == "bound" else 1000
  betas = diffusion.linear_betas(T, 0.1 / T, 20 / T)
  process = diffusion.DiscreteProcess.from_betas(betas)
  run = _bound if case.kind == "bound" else _sample
  if case.trivial:
    return run(case, process, lambda params, x, t: 0.1 * x, {}, x)
  unet = UNet(
    case.widths[0],
    tuple(width // case.widths[0] for width in case.widths),
    dropout=case.dropout,
  )
  params = _params(unet, x)
  if case.kind == "train":
    return _train(process, unet, params, x, mesh)
  if case.kind == "forward":
    t = jnp.arange(case.batch)
    return _timed(
      jax.jit(lambda p, x: unet.apply({"params": p}, x, t)), params, x
    )

  def network(params, x, t):
    return unet.apply({"params": params}, x, t - 1)

  return run(case, process, network, params, x)


def _params(unet: UNet, x) -> Any:
  """The weights that the peer has, too."""
  shapes = jax.eval_shape(unet.init, jax.random.key(0), x[:1], 0)["params"]
  empty = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
  names = {k: v.shape for k, v in ddpm.to_diffusers(empty, unet).items()}
  return ddpm.from_diffusers(weights(names), unet)


def _bound(case, process, network, params, x) -> Callable[[], Any]:
  def bound(params, x):
    denoiser = diffusion.eps_denoiser(
      process, lambda x, t: network(params, x, t)
    )
    denoiser = diffusion.clip_x_0(process, denoiser)
    key = jax.random.key(1)
    return diffusion.vlb_bits_per_dim(process, denoiser, key, x).total

  return _timed(jax.jit(bound), params, x)


def _sample(case, process, network, params, x) -> Callable[[], Any]:
  samplers = {"ddim": diffusion.ddim, "ancestral": diffusion.ancestral}
  times = diffusion.uniform_times(1000, case.steps)

  def sample(params, x):
    denoiser = diffusion.eps_denoiser(
      process, lambda x, t: network(params, x, t)
    )
    sampler = samplers[case.kind](process, denoiser)
    return diffusion.sample(jax.random.key(1), x, times, sampler)

  return _timed(jax.jit(sample), params, x)


def _timed(function, *args) -> Callable[[], Any]:
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
