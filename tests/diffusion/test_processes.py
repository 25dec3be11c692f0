"""Processes: tables, closed forms, and drift and diffusion by autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

SDES = {"vp": jd.VPSDE(), "subvp": jd.SubVPSDE(), "ve": jd.VESDE()}


def test_discrete_tables_start_at_data():
  process = jd.DiscreteProcess.from_betas(jd.linear_betas())
  assert process.T == 1000
  assert process.alpha(0) == 1.0
  assert process.sigma(0) == 0.0
  assert process.alphas.dtype == process.sigmas.dtype == jnp.float32
  # DDPM's alpha-bar_501, the value at index 500 of its code.
  assert float(process.alpha(501)) ** 2 == pytest.approx(
    0.07779665837, rel=1e-6
  )


def test_small_sigmas_keep_their_digits():
  """1 - abar in float32 would lose half of them at t = 1."""
  process = jd.DiscreteProcess.from_betas(jd.cosine_betas(4000))
  assert float(process.sigma(1)) ** 2 == pytest.approx(
    9.865818814e-06, rel=1e-6
  )


@pytest.mark.parametrize(
  ("sde", "t", "alpha", "sigma"),
  [
    ("vp", 1e-5, 0.9999994995, 0.001000497126),
    ("vp", 1e-3, 0.9999450265, 0.01048541634),
    ("vp", 0.25, 0.7236571851, 0.6901596036),
    ("vp", 0.5, 0.2811828808, 0.9596542021),
    ("vp", 1.0, 0.006571586495, 0.9999784069),
    ("subvp", 0.25, 0.7236571851, 0.4763202785),
    ("subvp", 0.5, 0.2811828808, 0.9209361875),
    ("subvp", 1.0, 0.006571586495, 0.9999568143),
    ("ve", 0.5, 1.0, 0.7071067812),
    ("ve", 1.0, 1.0, 50.0),
  ],
)
def test_sde_marginals(sde, t, alpha, sigma):
  process = SDES[sde]
  assert float(process.alpha(jnp.asarray(t))) == pytest.approx(alpha, rel=1e-5)
  assert float(process.sigma(jnp.asarray(t))) == pytest.approx(sigma, rel=1e-5)


def test_sde_diffusions():
  half, one = jnp.asarray(0.5), jnp.asarray(1.0)
  assert float(SDES["subvp"].diffusion(half)) == pytest.approx(3.160249449)
  assert float(SDES["ve"].diffusion(one)) == pytest.approx(206.363674, rel=1e-6)


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("t", (0.01, 0.3, 0.9))
def test_drift_and_diffusion_follow_from_the_marginal(sde, t):
  """f = (log alpha)' x, g^2 = (sigma^2)' - 2 (log alpha)' sigma^2."""
  process, t = SDES[sde], jnp.asarray(t)
  rate = jax.grad(lambda u: jnp.log(process.alpha(u)))(t)
  growth = jax.grad(lambda u: process.sigma(u) ** 2)(t)
  x = jnp.array([[1.0, -2.0]])
  np.testing.assert_allclose(process.drift(x, t), rate * x, rtol=1e-4)
  np.testing.assert_allclose(
    process.diffusion(t) ** 2,
    growth - 2 * rate * process.sigma(t) ** 2,
    rtol=1e-3,
  )


@pytest.mark.parametrize("sde", SDES)
def test_marginal_by_simulating_the_sde(sde):
  """Euler-Maruyama forward from x = 1 reaches alpha and sigma at t = 0.5.

  Five standard errors of 20,000 draws are 0.035 of a standard deviation and
  5% of the variance; steps of 0.001 add up to 0.9% (VE's variance grows by
  exp(17 t)).
  """
  process, n = SDES[sde], 500
  dt = 0.5 / n

  def step(x, inputs):
    key, t = inputs
    noise = jax.random.normal(key, x.shape)
    x = x + process.drift(x, t) * dt
    return x + process.diffusion(t) * jnp.sqrt(dt) * noise, None

  keys = jax.random.split(jax.random.key(0), n)
  x, _ = jax.lax.scan(step, jnp.ones(20_000), (keys, jnp.arange(n) * dt))
  t = jnp.asarray(0.5)
  grown = process.sigma(t) ** 2
  if sde == "ve":  # the paper's sigma(0) = sigma_min is noise on the data
    grown -= process.sigma(jnp.asarray(0.0)) ** 2
  assert float(x.mean()) == pytest.approx(float(process.alpha(t)), abs=0.04)
  assert float(x.var()) == pytest.approx(float(grown), rel=0.06)


def test_discrete_vp_approaches_the_sde():
  """beta_i = beta(i / N) / N (Song et al. 2021, App. C) as N grows."""
  process = jd.DiscreteProcess.from_betas(
    np.linspace(0.1 / 4000, 20 / 4000, 4000)
  )
  for t in (0.25, 0.5, 0.75):
    assert float(process.alpha(int(4000 * t))) == pytest.approx(
      float(SDES["vp"].alpha(jnp.asarray(t))), rel=5e-3
    )


def test_priors():
  key = jax.random.key(0)
  for process, std in [
    (jd.DiscreteProcess.from_betas(jd.linear_betas()), 1.0),
    (jd.DiscreteProcess.from_sigmas([0.1, 1.0, 30.0]), 30.0),
    (SDES["vp"], 1.0),
    (SDES["ve"], 50.0),
  ]:
    x = jd.prior(process, key, (4000, 2))
    assert float(x.std()) == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("t", (-1, 1001))
def test_t_outside_the_table(t):
  process = jd.DiscreteProcess.from_betas(jd.linear_betas())
  with pytest.raises(ValueError, match=r"t must lie in \[0, 1000\]"):
    process.alpha(jnp.asarray(t))
  assert jnp.isnan(jax.jit(process.sigma)(jnp.asarray(t)))


def test_t_of_the_wrong_kind():
  process = jd.DiscreteProcess.from_betas(jd.linear_betas())
  with pytest.raises(TypeError, match="integer t"):
    process.alpha(jnp.asarray(0.5))
  with pytest.raises(ValueError, match=r"t must lie in \[0, 1"):
    SDES["vp"].alpha(jnp.asarray(500))


def test_t_of_the_wrong_shape():
  process = jd.DiscreteProcess.from_betas(jd.linear_betas())
  x = jnp.zeros((4, 2, 2, 3))
  with pytest.raises(ValueError, match=r"t must have shape \[\] or \[B\]"):
    jd.q_sample(process, jax.random.key(0), x, jnp.ones(3, jnp.int32))


def test_bad_sde_parameters():
  with pytest.raises(ValueError, match="beta_max"):
    jd.VPSDE(beta_min=5.0, beta_max=1.0)
  with pytest.raises(ValueError, match="sigma_max"):
    jd.VESDE(sigma_min=2.0, sigma_max=1.0)


def test_processes_are_pytrees():
  process = jd.DiscreteProcess.from_betas(jd.linear_betas(100))
  doubled = jax.tree.map(lambda a: a, process)
  assert doubled.T == 100
  out = jax.jit(lambda p, t: p.alpha(t))(process, 50)
  assert out == process.alpha(50)


def test_jit_can_tell_processes_apart():
  """jaxlib holds dataclass nodes with equal fields for equal structures."""
  kinds = (jd.VPSDE(), jd.SubVPSDE(), jd.VESDE(1.0, 2.0), jd.KarrasProcess(1.0))
  structures = [jax.tree.structure(process) for process in kinds]
  for i, first in enumerate(structures):
    assert all(
      (first == other) == (i == j) for j, other in enumerate(structures)
    )


@pytest.mark.parametrize(
  "process", [*SDES.values(), jd.DiscreteProcess.from_betas([0.1, 0.2])]
)
def test_a_process_is_a_pytree(process):
  """Its leaves survive a round trip, also as no numbers at all."""
  leaves, structure = jax.tree.flatten(process)
  again = jax.tree.unflatten(structure, leaves)
  assert type(again) is type(process)
  assert again.T == process.T
  jax.tree.map(np.testing.assert_array_equal, again, process)
  assert jax.tree.leaves(jax.tree.map(lambda _: "x", process)) == ["x"] * len(
    leaves
  )
