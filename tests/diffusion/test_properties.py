"""What every public function keeps whatever its numbers: jit is no jit, vmap is
a loop, shapes and dtypes stay, gradients are finite, and round trips end where
they began.

The functions of a process are tried together, so that there are few programs
to compile; examples differ in values, never in shapes.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

SHAPE = (2, 3, 3, 2)
SETS = 4  # sets of numbers at a time, for vmap
PROCESSES = {
  "ddpm": jd.DiscreteProcess.from_betas(jd.linear_betas(9, 0.01, 0.3)),
  "vp": jd.VPSDE(),
  "ve": jd.VESDE(0.05, 5.0),
}
few = functools.partial(
  hypothesis.settings,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)


def network(x, t):
  return 0.5 * jnp.tanh(x) + 0.01 * t.reshape(-1, 1, 1, 1)


def wide(x, t):
  return jnp.concatenate([network(x, t), jnp.tanh(0.3 * x)], -1)


def classifier(x, t):
  del t
  return x.reshape(len(x), -1)[:, :4]


def algebra(process, x, other, key, t, s):
  """Closed forms and parameterisations."""
  prediction = jd.from_eps(process, x, t, other)
  found = {
    "q_sample": jd.q_sample(process, key, x, t),
    "transition": jd.transition(process, t, s, x),
    "posterior": jd.posterior(process, x, other, t, s),
    "snr": jd.snr(process, t),
    "marginal": jd.marginal(process, t, x),
    "from_eps": prediction,
    "from_x_0": jd.from_x_0(process, x, t, other),
    "from_velocity": jd.from_velocity(process, x, t, other),
    "from_score": jd.from_score(process, x, t, other),
    "velocity_of": jd.velocity_of(process, prediction, t),
    "score_of": jd.score_of(process, prediction, t),
    "p_mean_variance": jd.p_mean_variance(process, prediction, x, t, s, 0.5),
    "slerp": jd.slerp(x, other, 0.3),
  }
  if isinstance(process.T, int):
    found["from_mean"] = jd.from_mean(process, x, t, other)
  return found


def denoisers(process, x, other, key, t, s):
  """Denoisers, and guidance of them."""
  del key, s
  eps = jd.eps_denoiser(process, network)
  log_prob = jd.class_log_prob(classifier, jnp.array([1, 3]))
  guided = jd.guided_network(
    lambda x, t, c: network(x, t) + c, other, 0 * other, 2.0
  )
  made = {
    "eps": eps,
    "x_0": jd.x_0_denoiser(process, network),
    "velocity": jd.velocity_denoiser(process, network),
    "score": jd.score_denoiser(process, network),
    "edm": jd.edm_denoiser(process, network),
    "range": jd.learned_range_denoiser(process, wide),
    "variance": jd.learned_variance_denoiser(process, wide),
    "clip": jd.clip_x_0(process, eps),
    "free": jd.classifier_free(
      process, eps, jd.x_0_denoiser(process, network), 3.0
    ),
    "guided": jd.classifier_guided(process, eps, log_prob, 2.0),
    "twice": jd.eps_denoiser(process, guided),
  }
  if isinstance(process.T, int):
    made["mean"] = jd.mean_denoiser(process, network)
  return {name: denoiser(x, t) for name, denoiser in made.items()}


def samplers_of(process, known):
  denoiser = jd.clip_x_0(process, jd.eps_denoiser(process, network))
  plain = jd.ddim(process, denoiser)
  langevin = jd.langevin(process, denoiser, 0.1)
  annealed = jd.annealed_langevin(process, denoiser, 0.1)
  mask = jnp.zeros((1, 3, 3, 1)).at[:, 1].set(1)
  return {
    "ancestral": jd.ancestral(process, denoiser, 0.5),
    "ddim": plain,
    "ddim, eta": jd.ddim(process, denoiser, 0.7),
    "plms": jd.plms(process, denoiser),
    "dpm_solver": jd.dpm_solver_pp_2m(process, denoiser),
    "edm_heun": jd.edm_heun(process, denoiser),
    "euler_maruyama": jd.euler_maruyama(process, denoiser),
    "reverse_diffusion": jd.reverse_diffusion(process, denoiser),
    "euler_ode": jd.euler_ode(process, denoiser),
    "heun_ode": jd.heun_ode(process, denoiser),
    "langevin": jd.predictor_corrector(plain, langevin),
    "annealed": jd.predictor_corrector(jd.no_predictor(process), annealed),
    "inpaint": jd.inpaint(process, plain, known, mask),
    "colorize": jd.colorize(process, plain, known[..., :1]),
    "inverse": jd.linear_inverse(
      process, plain, known.reshape(2, -1)[:, :3], jnp.eye(3, 18)
    ),
  }


def steps(process, x, other, key, t, s):
  """One step of every sampler; t and s of the first example."""
  return {
    name: sampler.step(key, x, t[0], s[0], sampler.init(x))[0]
    for name, sampler in samplers_of(process, other).items()
  }


def losses(process, x, other, key, t, s):
  """Training losses and the variational bound's terms."""
  del s
  denoiser = jd.eps_denoiser(process, network)
  x = jnp.tanh(x)
  found = {
    "simple": jd.simple_loss(process, network, key, x, t),
    "x_0": jd.x_0_loss(process, network, key, x, t),
    "velocity": jd.velocity_loss(process, network, key, x, t),
    "score": jd.score_matching_loss(process, denoiser, key, x, t),
    "sliced": jd.sliced_score_matching_loss(process, denoiser, key, x, t),
    "edm": jd.edm_loss(network, key, x + 0 * other),
  }
  if isinstance(process.T, int):
    found["mean"] = jd.mean_loss(process, network, key, x, t)
    found["vlb"] = jd.vlb_losses(process, denoiser, key, x, 0.0, t)
    found["hybrid"] = jd.hybrid_loss(process, wide, key, x, 0.001, t)
  return found


GROUPS = (algebra, denoisers, steps, losses)
# What few seconds allow; the others by `pytest -m slow`.
QUICK = (("ddpm", 0), ("ddpm", 1), ("ddpm", 2), ("vp", 0))
CASES = [
  pytest.param(
    name,
    group,
    marks=() if (name, i) in QUICK else pytest.mark.slow,
  )
  for name in PROCESSES
  for i, group in enumerate(GROUPS)
]


def numbers(process, seed, fractions):
  """SETS sets of arguments, times at given shares of T."""
  keys = jax.random.split(jax.random.key(seed), SETS)
  rng = np.random.default_rng(seed)
  x, other = rng.normal(size=(2, SETS, *SHAPE)).astype(np.float32)
  t = np.array(fractions, np.float64).reshape(SETS, SHAPE[0])
  if isinstance(process.T, int):
    t = 2 + np.floor(t * (process.T - 2)).astype(np.int32)
    s = t // 2
  else:
    t = (0.2 + 0.8 * t).astype(np.float32)
    s = t / 2
  x, other, t, s = map(jnp.asarray, (x, other, t, s))
  return x, other, keys, t, s


@functools.cache
def compiled(name, group):
  f = functools.partial(group, PROCESSES[name])

  def total(x, *rest):
    found = jax.vmap(f)(x, *rest)
    return sum(a.sum() for a in jax.tree.leaves(found)), found

  # Quickly compiled rather than quick.
  quick = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
  )
  return quick(f), quick(jax.grad(total, has_aux=True))


def close(a, b):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), a, b
  )


shares = st.lists(
  st.floats(0, 1, width=32), min_size=2 * SETS, max_size=2 * SETS
)


@pytest.mark.parametrize(("name", "group"), CASES)
@few(max_examples=3)
@hypothesis.given(seed=st.integers(0, 99), fractions=shares)
def test_jit_vmap_and_gradients(name, group, seed, fractions):
  process = PROCESSES[name]
  f, mapped = compiled(name, group)
  sets = numbers(process, seed, fractions)
  each = [f(*(a[i] for a in sets)) for i in range(SETS)]
  for leaf in jax.tree.leaves(each):
    assert leaf.dtype == jnp.float32
    assert np.isfinite(leaf).all()
  slope, together = mapped(*sets)
  close(together, jax.tree.map(lambda *a: np.stack(a), *each))
  assert slope.shape == (SETS, *SHAPE)
  assert np.isfinite(slope).all()


@pytest.mark.parametrize(
  "group",
  [algebra, *(pytest.param(g, marks=pytest.mark.slow) for g in GROUPS[1:])],
)
def test_without_jit_all_is_the_same(group):
  f, _ = compiled("ddpm", group)
  one = [a[0] for a in numbers(PROCESSES["ddpm"], 5, np.linspace(0, 1, 8))]
  with jax.disable_jit():
    plain = group(PROCESSES["ddpm"], *one)
  close(plain, f(*one))


@pytest.mark.parametrize("name", PROCESSES)
def test_shapes_are_those_of_x(name):
  process = PROCESSES[name]
  one = [a[0] for a in numbers(process, 0, np.linspace(0, 1, 8))]
  for group in (denoisers, steps):
    shapes = jax.eval_shape(functools.partial(group, process), *one)
    for leaf in jax.tree.leaves(shapes):
      assert leaf.shape == SHAPE
  shapes = jax.eval_shape(functools.partial(losses, process), *one)
  for loss, leaf in shapes.items():
    assert leaf.shape == (SHAPE[:1] if loss == "vlb" else ())


# Round trips


@pytest.mark.parametrize("name", PROCESSES)
@few(max_examples=8)
@hypothesis.given(seed=st.integers(0, 10**6), fractions=shares)
def test_parameterisations_lead_back(name, seed, fractions):
  process = PROCESSES[name]
  x_t, eps, _, t, s = (a[0] for a in numbers(process, seed, fractions))
  found = _round_trips(name)(x_t, eps, t, s)
  for back in found["eps"]:
    np.testing.assert_allclose(back, eps, rtol=1e-3, atol=1e-3)
  for back in found["x_t"]:
    scale = 1 + abs(found["x_0"])
    np.testing.assert_allclose(back / scale, x_t / scale, atol=1e-3)


@functools.cache
def _round_trips(name):
  process = PROCESSES[name]

  @jax.jit
  def trips(x_t, eps, t, s):
    made = jd.from_eps(process, x_t, t, eps)
    alpha, sigma = jd.marginal(process, t, x_t)
    velocity = jd.velocity_of(process, made, t)
    score = jd.score_of(process, made, t)
    same = jd.x_0_denoiser(process, lambda x, t: made.x_0)
    ddim = jd.ddim(process, same)
    there, _ = ddim.step(jax.random.key(0), x_t, t[0], s[0], ())
    back, _ = ddim.step(jax.random.key(0), there, s[0], t[0], ())
    return {
      "x_0": made.x_0,
      "eps": (
        jd.from_x_0(process, x_t, t, made.x_0).eps,
        jd.from_velocity(process, x_t, t, velocity).eps,
        jd.from_score(process, x_t, t, score).eps,
      ),
      "x_t": (alpha * made.x_0 + sigma * eps, back),
    }

  return trips


@few(max_examples=8)
@hypothesis.given(seed=st.integers(0, 99), scale=st.floats(-2, 5, width=32))
def test_guidance_is_linear_and_clipping_clips(seed, scale):
  process = PROCESSES["ddpm"]
  x, _, _, t, _ = (a[0] for a in numbers(process, seed, np.ones(8)))
  first, second = (
    jd.eps_denoiser(process, lambda x, t, k=k: k * network(x, t))
    for k in (1.0, -0.5)
  )
  mixed = jd.classifier_free(process, first, second, scale)(x, t).eps
  weight = scale - 0.5 * (1 - scale)
  np.testing.assert_allclose(mixed, weight * network(x, t), atol=1e-4)
  clipped = jd.clip_x_0(process, first, -0.3, 0.2)(x, t)
  assert clipped.x_0.min() >= np.float32(-0.3)
  assert clipped.x_0.max() <= np.float32(0.2)
  alpha, sigma = jd.marginal(process, t, x)
  close(alpha * clipped.x_0 + sigma * clipped.eps, x)


# The loop and its uses


def test_the_loop_is_its_steps_one_by_one():
  process = PROCESSES["ddpm"]
  key = jax.random.key(3)
  x = jd.prior(process, key, SHAPE)
  assert x.shape == SHAPE
  times = jd.descending_times(process.T, 3)
  sampler = jd.ddim(process, jd.eps_denoiser(process, network), 0.5)
  last = jd.sample(key, x, times, sampler)
  every = jd.trajectory(key, x, times, sampler)
  assert every.shape == (4, *SHAPE)
  np.testing.assert_array_equal(every[0], x)
  np.testing.assert_array_equal(every[-1], last)
  keys = [jax.random.fold_in(key, i) for i in range(3)]
  for step_key, t, s in zip(keys, times[:-1], times[1:], strict=True):
    x, _ = sampler.step(step_key, x, jnp.asarray(t), jnp.asarray(s), ())
  close(last, x)


def test_what_is_known_stays():
  """At data, and so also through all the samplers that keep it."""
  process = PROCESSES["ddpm"]
  x, known, key, _, _ = (a[0] for a in numbers(process, 2, np.ones(8)))
  found = {
    name: sampler.step(key, x, jnp.asarray(1), jnp.asarray(0), ())[0]
    for name, sampler in samplers_of(process, known).items()
    if name in ("inpaint", "colorize", "inverse")
  }
  close(found["inpaint"][:, 1], known[:, 1])
  close(found["colorize"].mean(-1), known[..., 0])
  close(found["inverse"].reshape(2, -1)[:, :3], known.reshape(2, -1)[:, :3])
  start, rest = jd.image_to_image(
    process, key, known, np.arange(9, -1, -1), 0.4
  )
  assert start.shape == SHAPE
  assert rest.tolist() == [3, 2, 1, 0]


def test_the_bound_is_the_sum_of_its_terms():
  process = PROCESSES["ddpm"]
  x, _, key, _, _ = (a[0] for a in numbers(process, 2, np.ones(8)))
  denoiser = jd.eps_denoiser(process, network)
  bound = jax.jit(
    lambda key, x: jd.vlb_bits_per_dim(process, denoiser, key, x)
  )(key, jnp.round(jnp.tanh(x) * 127.5 + 127.5) / 127.5 - 1)
  assert bound.total.shape == SHAPE[:1]
  assert bound.terms.shape == (SHAPE[0], process.T)
  close(bound.total, bound.prior + bound.terms.sum(1))
  assert (bound.prior >= 0).all()
  assert (bound.terms >= 0).all()
