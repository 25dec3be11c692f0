"""The adaptive probability flow against closed forms of its likelihood."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxgen.diffusion as jd
from jaxgen import training

sys.path.insert(0, str(Path(__file__).parents[1]))
import oracles
from oracles import Mixture

SDES = ("ve", "vp", "subvp")
EPS = 1e-5
# Of mean 0, so that the prior fits x_T to 1e-4: the model is the data.
CENTRED = {
  "gaussian": Mixture(np.ones(1), np.array([[0.0]]), np.array([0.5])),
  "mixture": Mixture(
    np.array([0.4, 0.6]),
    np.array([[-0.6, 0.3], [0.4, -0.2]]),
    np.array([0.3, 0.2]),
  ),
}


def exact(process, data, t, x):
  alpha, sigma = oracles.coefficients(process, t)
  return jax.vmap(lambda y: oracles.log_density(data, alpha, sigma, y))(x)


@pytest.mark.parametrize("data", CENTRED)
@pytest.mark.parametrize("name", SDES)
def test_the_log_likelihood_is_the_datas(name, data):
  """Exact trace, exact denoiser, two points: within 1e-3 nats."""
  process, data = oracles.PROCESSES[name], CENTRED[data]
  dims = data.means.shape[1]
  x = jnp.asarray([[0.35, 0.1][:dims], [-0.8, 0.6][:dims]])
  denoiser = oracles.denoiser(process, data)
  found = jax.jit(lambda x: jd.ode_log_likelihood(process, denoiser, x))(x)
  np.testing.assert_allclose(
    found.log_likelihood, exact(process, data, EPS, x), atol=1e-3
  )


@pytest.mark.parametrize("name", SDES)
def test_the_log_likelihood_is_the_models(name):
  """Where the prior does not fit: a change of variables, known in 1-D.

  log p(x) = log q_0(x) + log prior(x_T) - log q_T(x_T), x_T at x's quantile.
  """
  process, data = oracles.PROCESSES[name], oracles.MIXTURE_1D
  x = jnp.asarray([[-1.1], [0.3], [0.9]])
  denoiser = oracles.denoiser(process, data, "x_0")
  found = jax.jit(lambda x: jd.ode_log_likelihood(process, denoiser, x))(x)
  np.testing.assert_allclose(
    oracles.cdf(data, process, 1.0, found.latent[:, 0]),
    oracles.cdf(data, process, EPS, x[:, 0]),
    atol=1e-4,
  )
  prior = oracles.normal_log_pdf(found.latent[:, 0], 0, process.prior_std)
  expected = exact(process, data, EPS, x) + prior
  expected -= exact(process, data, 1.0, found.latent)
  np.testing.assert_allclose(found.log_likelihood, expected, atol=1e-3)
  assert abs(expected - exact(process, data, EPS, x)).max() > 1e-3


@pytest.mark.parametrize(
  ("name", "probe"),
  [("ve", "gaussian"), ("vp", "rademacher"), ("subvp", "gaussian")],
)
def test_hutchinsons_estimate_is_unbiased(name, probe):
  """The mean over 1000 probes within 3 standard errors of the closed form."""
  process = oracles.PROCESSES[name]
  data = CENTRED["mixture"]
  x = jnp.tile(jnp.asarray([[0.1, 0.05]]), (1000, 1))
  denoiser = oracles.denoiser(process, data)
  found = jax.jit(
    lambda x, key: jd.ode_log_likelihood(process, denoiser, x, key, probe)
  )(x, jax.random.key(1))
  values = np.asarray(found.log_likelihood, np.float64)
  error = values.std() / np.sqrt(len(values))
  assert error > 1e-4  # the probe matters here
  expected = float(exact(process, data, EPS, x[:1])[0])
  assert abs(values.mean() - expected) < 3 * error + 1e-4


def test_a_probe_is_exact_where_the_trace_is_one_number():
  """In 1-D e' J e = J for Rademacher's e, +1 or -1."""
  process, data = oracles.PROCESSES["vp"], CENTRED["gaussian"]
  x = jnp.asarray([[0.35], [-0.8]])
  denoiser = oracles.denoiser(process, data)
  keys = jax.random.split(jax.random.key(0), 2)
  found = jd.ode_log_likelihood(process, denoiser, x, keys)
  expected = jd.ode_log_likelihood(process, denoiser, x)
  np.testing.assert_allclose(
    found.log_likelihood, expected.log_likelihood, atol=1e-4
  )


@pytest.mark.parametrize("name", ("ve", "subvp"))
def test_encoding_and_decoding(name):
  """x_0 -> x_T, as the closed form has it, -> x_0."""
  process, data = oracles.PROCESSES[name], oracles.GAUSSIAN
  denoiser = oracles.denoiser(process, data)
  x = jnp.asarray([[-0.2], [0.9], [1.7]])
  latent = jd.ode_encode(process, denoiser, x, t_start=1e-3).x
  flow = oracles.gaussian_flow(data, process, 1e-3, process.T, x)
  np.testing.assert_allclose(latent, flow, rtol=1e-3, atol=1e-3)
  back = jd.ode_sample(process, denoiser, latent, t_end=1e-3)
  np.testing.assert_allclose(back.x, x, atol=1e-3)


def test_samples_keep_their_quantiles():
  process, data = oracles.PROCESSES["vp"], oracles.MIXTURE_1D
  x_T = jnp.asarray(oracles.quantiles(data, process, 1.0, 50), jnp.float32)
  x = jd.ode_sample(process, oracles.denoiser(process, data), x_T).x
  levels = oracles.cdf(data, process, EPS, np.asarray(x)[:, 0])
  np.testing.assert_allclose(levels, (np.arange(50) + 0.5) / 50, atol=1e-3)


def test_evaluations_are_counted():
  """Against a denoiser that counts its calls; fewer at a loose tolerance."""
  process, data = oracles.PROCESSES["vp"], oracles.MIXTURE_1D
  exact_denoiser = oracles.denoiser(process, data)
  calls = []

  def denoiser(x, t):
    jax.debug.callback(lambda t: calls.append(float(t)), t)
    return exact_denoiser(x, t)

  x = jnp.linspace(-1, 1, 5)[:, None]
  counts = []
  for tolerance in (1e-3, 1e-6):
    calls.clear()
    how = jd.Tolerances(tolerance, tolerance)
    found = jd.ode_encode(process, denoiser, x, tolerances=how)
    jax.effects_barrier()
    assert int(found.num_evaluations) == len(calls)
    counts.append(len(calls))
  assert counts[0] < counts[1]


def test_bits_per_dim_of_uniform_noise():
  """A model of [-1, 1] whose density is N(0, s^2): bins of 2 / 256.

  The expected bits are 7 - log2 of the density, by hand.
  """
  process = oracles.PROCESSES["vp"]
  images = jax.random.randint(jax.random.key(0), (4, 1, 2, 1), 0, 256)
  wide = Mixture(np.ones(1), np.zeros((1, 2)), np.array([0.6]))
  network = oracles.networks(process, wide)["eps"]
  denoiser = jd.eps_denoiser(
    process, lambda x, t: network(x.reshape(4, 2), t).reshape(x.shape)
  )
  key = jax.random.key(5)
  found = jax.jit(
    lambda images: jd.ode_bits_per_dim(
      process, denoiser, key, images, exact=True
    )
  )(images)
  u = jax.random.uniform(jax.random.split(key)[0], images.shape)
  x = np.asarray((images + u) / 128 - 1).reshape(4, 2)
  density = oracles.normal_log_pdf(x, 0, 0.6).sum(1)
  np.testing.assert_allclose(
    found.bits_per_dim, 7 - density / 2 / np.log(2), atol=2e-3
  )
  assert "RK45 rtol 1e-05" in found.protocol
  assert "(k + u) / 256 on [-1, 1]" in found.protocol
  assert "exact trace" in found.protocol


def test_a_batch_over_devices():
  """Jitted, on eight devices: the numbers of one."""
  mesh = training.make_mesh()
  process, data = oracles.PROCESSES["subvp"], CENTRED["gaussian"]
  denoiser = oracles.denoiser(process, data)
  run = jax.jit(lambda x: jd.ode_log_likelihood(process, denoiser, x))
  x = jnp.linspace(-1, 1, 16)[:, None]
  sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  spread = run(jax.device_put(x, sharding))
  assert len(spread.latent.sharding.device_set) == 8
  np.testing.assert_allclose(
    spread.log_likelihood, run(x).log_likelihood, atol=1e-4
  )


def test_what_is_refused():
  discrete = oracles.PROCESSES["linear"]
  denoiser = oracles.denoiser(discrete, oracles.GAUSSIAN)
  x = jnp.zeros((1, 1))
  with pytest.raises(ValueError, match=r"continuous process .* DiscreteProc"):
    jd.ode_log_likelihood(discrete, denoiser, x)
  process = oracles.PROCESSES["vp"]
  denoiser = oracles.denoiser(process, oracles.GAUSSIAN)
  with pytest.raises(ValueError, match="got 'uniform'"):
    jd.ode_log_likelihood(process, denoiser, x, jax.random.key(0), "uniform")
  with pytest.raises(ValueError, match="integers 0 to 255, got float32"):
    jd.ode_bits_per_dim(process, denoiser, jax.random.key(0), x)
  few = jd.Tolerances(max_steps=3)
  out = jd.ode_encode(process, denoiser, x, tolerances=few)
  assert np.isnan(out.x).all()


def test_diffrax_is_asked_for_by_name(monkeypatch):
  monkeypatch.setitem(sys.modules, "diffrax", None)
  process = oracles.PROCESSES["vp"]
  denoiser = oracles.denoiser(process, oracles.GAUSSIAN)
  with pytest.raises(ImportError, match=r"jaxgen\[ode\]"):
    jd.ode_encode(process, denoiser, jnp.zeros((1, 1)))
