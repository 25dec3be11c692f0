"""The oracle table: every sampler on every process with the exact denoiser.

A sampler that enters the library enters `SAMPLERS` here, with the bounds it
must keep. Data are N(1, 0.5^2) and two-component mixtures in 1-D and 2-D.
"""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

sys.path.insert(0, str(Path(__file__).parents[1]))
import oracles

STEPS = (8, 32, 128)
N = 20_000
FEWER = 6_000  # of a mixture, whose denoiser takes longer


def pc(
  process, denoiser, predictor=jd.reverse_diffusion, first=True, ald=False
):
  """One corrector step per step, of the sizes that suit one dimension."""
  make = jd.annealed_langevin if ald else jd.langevin
  corrector = make(process, denoiser, 0.16)
  return jd.predictor_corrector(
    predictor(process, denoiser), corrector, corrector_first=first
  )


SAMPLERS = {
  "ancestral": jd.ancestral,
  "ancestral-large": functools.partial(jd.ancestral, variance=jd.FIXED_LARGE),
  "ddim": jd.ddim,
  "ddim-0.5": functools.partial(jd.ddim, eta=0.5),
  "ddim-1": functools.partial(jd.ddim, eta=1.0),
  "edm-heun": jd.edm_heun,
  "dpm-solver-2m": jd.dpm_solver_pp_2m,
  "plms": jd.plms,
  "euler-maruyama": jd.euler_maruyama,
  "reverse-diffusion": jd.reverse_diffusion,
  "flow-predictor": functools.partial(
    jd.reverse_diffusion, probability_flow=True
  ),
  "euler-ode": jd.euler_ode,
  "heun-ode": jd.heun_ode,
  "pc": pc,
  "pc-paper": functools.partial(pc, first=False),
  "pc-ancestral-ald": functools.partial(pc, predictor=jd.ancestral, ald=True),
}
# The largest error of the standardised mean and of the relative variance at
# 128 steps. Ancestral steps lack the variance of x_0 given x_t, and fixed large
# ones overstate it: both need more steps than the probability flow.
BOUNDS = {
  "ancestral": 0.13,
  "ancestral-large": 0.11,
  "ddim": 0.06,
  "ddim-0.5": 0.09,
  "ddim-1": 0.13,
  "edm-heun": 0.03,
  "dpm-solver-2m": 0.05,
  "plms": 0.03,
  # Discretised as the paper has it, the probability flow is of low accuracy.
  "euler-maruyama": 0.1,
  "reverse-diffusion": 0.1,
  "flow-predictor": 0.4,
  "euler-ode": 0.4,
  "heun-ode": 0.15,
  "pc": 0.06,
  "pc-paper": 0.06,
  "pc-ancestral-ald": 0.1,
}
# Their drift, evaluated where a step starts, cannot follow the betas near 1
# that cosine schedules end with.
EXPLICIT = ("flow-predictor", "euler-ode", "heun-ode")
# Processes of each kind, and those that are near one of them.
SOME = ("cosine", "vp", "subvp", "karras")
OTHERS = [
  pytest.param(name, marks=pytest.mark.slow)
  for name in oracles.PROCESSES
  if name not in SOME
]
# Near others in the table: of these the Gaussian is enough.
COARSE = (*EXPLICIT, "reverse-diffusion", "pc-paper")


def skip_explicit(process_name, sampler):
  if sampler in EXPLICIT and process_name == "cosine":
    pytest.skip("an explicit step over beta = 0.999")


def one_step(sampler, process, mixture, key, x, t, s, memory):
  """Compiled once for all grids and all processes of a type."""
  denoiser = oracles.denoiser(process, mixture, "x_0")
  return SAMPLERS[sampler](process, denoiser).step(key, x, t, s, memory)


step = jax.jit(one_step, static_argnames="sampler")
# Of N draws, which take longer than to optimise the program.
step_of_many = jax.jit(
  one_step,
  static_argnames="sampler",
  compiler_options={"xla_backend_optimization_level": 1},
)


def run(seed, x, times, process_name, sampler, data):
  """What `sample` does, by hand."""
  # Arrays of JAX: after a program of diffrax, jit hands float64 ones of numpy
  # to programs compiled under x64 as float32.
  mixture = jax.tree.map(jnp.asarray, getattr(oracles, data))
  arguments = (oracles.PROCESSES[process_name], mixture)
  keys = jax.random.split(jax.random.key(seed), len(times))
  denoiser = oracles.denoiser(*arguments, "x_0")
  memory = SAMPLERS[sampler](arguments[0], denoiser).init(x)
  take = step_of_many if len(x) == N else step
  for key, t, s in zip(keys, times, times[1:], strict=False):
    x, memory = take(sampler, *arguments, key, x, t, s, memory)
  return x


@functools.cache
def final(process_name, sampler, steps, data="GAUSSIAN", seed=0, n=N):
  """(samples at the end of the grid from exact draws at its start, t_end)."""
  process = oracles.PROCESSES[process_name]
  times = oracles.grid(process, steps)
  x = oracles.draw(getattr(oracles, data), process, times[0], n)
  out = run(seed, x, times, process_name, sampler, data)
  return np.asarray(out, np.float64), times[-1]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("process_name", oracles.PROCESSES)
def test_bias_and_variance_fall_with_steps(process_name, sampler):
  skip_explicit(process_name, sampler)
  process = oracles.PROCESSES[process_name]
  errors = []
  for steps in STEPS:
    x, t_end = final(process_name, sampler, steps)
    mean, cov = oracles.moments(oracles.GAUSSIAN, process, t_end)
    std = np.sqrt(cov[0, 0])
    errors.append([abs(x.mean() - mean[0]) / std, abs(x.var() / cov[0, 0] - 1)])
  errors = np.asarray(errors)
  noise = 4 * np.array([1, np.sqrt(2)]) / np.sqrt(N)
  assert (errors[1] < errors[0] + noise).all()
  assert (errors[2] < errors[1] + noise).all()
  assert errors[0].max() > 2 * errors[2].max()
  assert errors[2].max() < BOUNDS[sampler]


@pytest.mark.parametrize(
  ("process_name", "sampler"),
  [
    *((name, "ddim") for name in oracles.PROCESSES),
    *((name, "euler-ode") for name in ("vp", "subvp", "karras")),
  ],
)
def test_solvers_of_first_order(process_name, sampler):
  """Against the closed-form probability flow of a Gaussian, path by path."""
  process = oracles.PROCESSES[process_name]
  errors = []
  for steps in (50, 100, 200):
    times = oracles.grid(process, steps)
    x = jnp.linspace(-2.0, 2.0, 41)[:, None] * process.prior_std
    out = run(0, x, times, process_name, sampler, "GAUSSIAN")
    exact = oracles.gaussian_flow(
      oracles.GAUSSIAN, process, times[0], times[-1], x
    )
    errors.append(np.abs(np.asarray(out) - exact).max())
  order = np.polyfit(np.log([50, 100, 200]), np.log(errors), 1)[0]
  assert -1.25 < order < -0.75, (order, errors)


@pytest.mark.parametrize(
  "sampler", ["edm-heun", "dpm-solver-2m", "plms", "heun-ode"]
)
@pytest.mark.parametrize("process_name", ["vp", "subvp", "karras"])
def test_solvers_of_second_order(process_name, sampler):
  """Between two noise levels, on a smooth grid; PLMS is of order 2 or more."""
  process = oracles.PROCESSES[process_name]
  first, last = (20.0, 0.2) if process_name == "karras" else (0.9, 0.2)
  errors, counts = [], (40, 80, 160)
  with jax.enable_x64(True):
    for steps in counts:
      times = np.linspace(first ** (1 / 7), last ** (1 / 7), steps + 1) ** 7
      x = jnp.linspace(-2.0, 2.0, 11)[:, None]
      out = run(0, x, times, process_name, sampler, "GAUSSIAN")
      exact = oracles.gaussian_flow(
        oracles.GAUSSIAN, process, times[0], times[-1], x
      )
      errors.append(np.abs(np.asarray(out) - exact).max())
  order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
  assert 1.7 < order < (4.5 if sampler == "plms" else 2.6), (order, errors)


@pytest.mark.parametrize("process_name", oracles.PROCESSES)
def test_ddim_flow_keeps_quantiles_of_a_mixture(process_name):
  """In 1-D the probability flow is monotone: F_0(x_0) = F_T(x_T)."""
  process = oracles.PROCESSES[process_name]
  gaps = []
  for steps in STEPS:
    times = oracles.grid(process, steps)
    x = oracles.quantiles(oracles.MIXTURE_1D, process, times[0], 400)
    x = jnp.asarray(x, jnp.float32)
    out = run(0, x, times, process_name, "ddim", "MIXTURE_1D")
    levels = oracles.cdf(
      oracles.MIXTURE_1D, process, times[-1], np.asarray(out)[:, 0]
    )
    gaps.append(np.abs(levels - (np.arange(400) + 0.5) / 400).max())
  assert gaps[0] > gaps[1] > gaps[2]
  assert gaps[2] < 0.06, gaps


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in COARSE])
@pytest.mark.parametrize("process_name", SOME + tuple(OTHERS))
def test_mixture_in_one_dimension(process_name, sampler):
  """Kolmogorov-Smirnov distance to the exact marginal."""
  process = oracles.PROCESSES[process_name]
  distances = []
  for steps in (8, 128):
    x, t_end = final(process_name, sampler, steps, "MIXTURE_1D", n=FEWER)
    levels = np.sort(oracles.cdf(oracles.MIXTURE_1D, process, t_end, x[:, 0]))
    ranks = (np.arange(FEWER) + 0.5) / FEWER
    distances.append(np.abs(levels - ranks).max())
  assert distances[1] < distances[0]
  assert distances[1] < 0.06


@pytest.mark.parametrize("sampler", ("ancestral", "ddim", "ddim-0.5"))
@pytest.mark.parametrize("process_name", oracles.PROCESSES)
def test_mixture_in_two_dimensions(process_name, sampler):
  process = oracles.PROCESSES[process_name]
  x, t_end = final(process_name, sampler, 128, "MIXTURE_2D", n=FEWER)
  mean, cov = oracles.moments(oracles.MIXTURE_2D, process, t_end)
  scale = np.sqrt(np.diag(cov))
  assert np.abs((x.mean(0) - mean) / scale).max() < 0.05
  assert (
    np.abs((np.cov(x.T) - cov) / np.outer(scale, scale)).max() < BOUNDS[sampler]
  )
  nearer_first = (
    np.linalg.norm(x - oracles.MIXTURE_2D.means[0], axis=1)
    < np.linalg.norm(x - oracles.MIXTURE_2D.means[1], axis=1)
  ).mean()
  assert nearer_first == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("process_name", oracles.PROCESSES)
def test_eta_one_is_ancestral(process_name):
  a, _ = final(process_name, "ddim-1", 20, n=100)
  b, _ = final(process_name, "ancestral", 20, n=100)
  np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("process_name", oracles.PROCESSES)
def test_eta_changes_samples_and_keeps_the_marginal(process_name):
  """From one start point: eta = 0 is a point, eta > 0 a cloud."""
  process = oracles.PROCESSES[process_name]
  deterministic, t_end = final(process_name, "ddim", 128)
  again, _ = final(process_name, "ddim", 128, seed=1)
  np.testing.assert_array_equal(deterministic, again)
  noisy, _ = final(process_name, "ddim-0.5", 128)
  other, _ = final(process_name, "ddim-0.5", 128, seed=1)
  std = np.sqrt(oracles.moments(oracles.GAUSSIAN, process, t_end)[1][0, 0])
  assert np.abs(noisy - deterministic).mean() > 0.1 * std
  assert np.abs(noisy - other).mean() > 0.1 * std
  assert noisy.std() == pytest.approx(deterministic.std(), rel=0.06)
  assert noisy.mean() == pytest.approx(deterministic.mean(), abs=0.05 * std)


@functools.partial(jax.jit, static_argnames=("sampler", "parameterisation"))
def sampled(process, x, times, sampler, parameterisation):
  denoiser = oracles.denoiser(process, oracles.MIXTURE_2D, parameterisation)
  method = SAMPLERS[sampler](process, denoiser)
  return jd.sample(jax.random.key(3), x, times, method)


@functools.cache
def path(process_name, sampler, parameterisation):
  """Where the paths of 32 steps from 50 points end."""
  process = oracles.PROCESSES[process_name]
  times = jnp.asarray(oracles.grid(process, 32))
  x = oracles.draw(oracles.MIXTURE_2D, process, times[0], 50)
  return sampled(process, x, times, sampler, parameterisation)


@pytest.mark.parametrize("parameterisation", ("x_0", "velocity", "score"))
@pytest.mark.parametrize("sampler", ("ancestral", "ddim"))
@pytest.mark.parametrize("process_name", oracles.PROCESSES)
def test_parameterisations_agree(process_name, sampler, parameterisation):
  """The same key gives the same path, whatever the network predicts."""
  found, wanted = (
    path(process_name, sampler, name) for name in (parameterisation, "eps")
  )
  np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_ddim_encodes_and_decodes():
  """Up the grid and down again returns to the start, better with steps."""
  process = oracles.PROCESSES["linear"]
  denoiser = oracles.denoiser(process, oracles.MIXTURE_2D)
  method = jd.ddim(process, denoiser)
  x = oracles.draw(oracles.MIXTURE_2D, process, 1, 200)
  errors = []
  for steps in (20, 100, 500):
    times = np.unique(np.linspace(1, 1000, steps + 1).astype(np.int32))
    up = jd.sample(jax.random.key(0), x, times, method)
    down = jd.sample(jax.random.key(0), up, times[::-1], method)
    errors.append(float(jnp.abs(down - x).mean()))
  assert errors[0] > errors[1] > errors[2]
  assert errors[2] < 0.01, errors
