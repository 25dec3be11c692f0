"""The simple losses: identities between targets, and the best value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd

PROCESS = jd.DiscreteProcess.from_betas(jd.linear_betas())
KEY = jax.random.key(7)
X_0 = jax.random.uniform(jax.random.key(0), (16, 4, 4, 3), minval=-1.0)


def guess(x, t):
  """Some estimate of x_0; each target's network is derived from it."""
  return 0.3 * jnp.tanh(x) + t[:, None, None, None] / 5000


def target_network(convert):
  def network(x, t):
    alpha, sigma = jd.marginal(PROCESS, t, x)
    x_0 = guess(x, t)
    return convert(alpha, sigma, x, x_0, (x - alpha * x_0) / sigma, t)

  return network


eps_network = target_network(lambda a, s, x, x_0, eps, t: eps)
velocity_network = target_network(
  lambda a, s, x, x_0, eps, t: a * eps - s * x_0
)


@pytest.mark.parametrize("t", (1, 2, 50, 400, 990))
def test_targets_differ_by_the_snr(t):
  """DDPM's three derivations of L_simple are one loss up to a weight."""
  abar = np.cumprod(1 - jd.linear_betas())
  snr = abar[t - 1] / (1 - abar[t - 1])
  t = jnp.asarray(t)
  x_0_mse = jd.x_0_loss(PROCESS, guess, KEY, X_0, t)
  eps_mse = jd.simple_loss(PROCESS, eps_network, KEY, X_0, t)
  velocity_mse = jd.velocity_loss(PROCESS, velocity_network, KEY, X_0, t)
  np.testing.assert_allclose(eps_mse, snr * x_0_mse, rtol=1e-3)
  np.testing.assert_allclose(velocity_mse, (1 + snr) * x_0_mse, rtol=1e-3)
  np.testing.assert_allclose(velocity_mse, (1 + 1 / snr) * eps_mse, rtol=1e-3)


@pytest.mark.parametrize("t", (1, 2, 50, 400, 990))
def test_mean_target_is_x_0_with_c_1(t):
  betas = jd.linear_betas()
  abar = np.append(1.0, np.cumprod(1 - betas))
  c_1 = betas[t - 1] * np.sqrt(abar[t - 1]) / (1 - abar[t])
  c_2 = (1 - abar[t - 1]) * np.sqrt(1 - betas[t - 1]) / (1 - abar[t])
  network = lambda x, t: c_1 * guess(x, t) + c_2 * x
  t = jnp.asarray(t)
  np.testing.assert_allclose(
    jd.mean_loss(PROCESS, network, KEY, X_0, t),
    c_1**2 * jd.x_0_loss(PROCESS, guess, KEY, X_0, t),
    rtol=5e-3,
  )


@pytest.mark.parametrize("t", (2, 50, 400, 990))
@pytest.mark.parametrize("variance", (jd.FIXED_SMALL, jd.FIXED_LARGE))
def test_bound_is_the_weighted_eps_loss(t, variance):
  """DDPM Eq. 12, plus the constant KL of the two variances."""
  betas = jd.linear_betas()
  abar = np.append(1.0, np.cumprod(1 - betas))
  beta = betas[t - 1]
  small = beta * (1 - abar[t - 1]) / (1 - abar[t])
  sigma_2 = beta if variance else small
  weight = beta**2 / (2 * sigma_2 * (1 - beta) * (1 - abar[t]))
  constant = 0.5 * (small / sigma_2 - 1 - np.log(small / sigma_2))
  denoiser = jd.eps_denoiser(PROCESS, eps_network)
  bound = jd.vlb_loss(PROCESS, denoiser, KEY, X_0, variance, jnp.asarray(t))
  eps_mse = jd.simple_loss(PROCESS, eps_network, KEY, X_0, jnp.asarray(t))
  expected = 1000 * (weight * eps_mse + constant) / np.log(2)
  np.testing.assert_allclose(bound, expected, rtol=3e-3)


def test_the_best_eps_loss_of_a_gaussian():
  """For x_0 ~ N(0, s^2) the least loss is alpha^2 s^2 / (alpha^2 s^2 + s_t^2)

  and the exact network attains it.
  """
  t, std = jnp.asarray(300), 0.5
  alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
  variance = alpha**2 * std**2 + sigma**2
  x_0 = std * jax.random.normal(jax.random.key(0), (200_000, 1))
  best = jd.simple_loss(PROCESS, lambda x, t: sigma / variance * x, KEY, x_0, t)
  np.testing.assert_allclose(best, alpha**2 * std**2 / variance, rtol=0.01)


def test_random_times_cover_the_process():
  t = jd.random_times(PROCESS, KEY, 100_000)
  assert int(t.min()) == 1
  assert int(t.max()) == 1000
  assert float(t.mean()) == pytest.approx(500.5, rel=0.01)
  u = jd.random_times(jd.VPSDE(), KEY, 100_000, eps=1e-3)
  assert 1e-3 <= float(u.min()) < 2e-3
  assert float(u.max()) <= 1.0


@pytest.mark.parametrize("process", (jd.VPSDE(), jd.SubVPSDE(), jd.VESDE()))
def test_losses_of_continuous_processes(process):
  loss = jd.simple_loss(process, lambda x, t: 0 * x, KEY, X_0)
  assert float(loss) == pytest.approx(1.0, rel=0.1)


def test_a_network_of_the_wrong_shape():
  with pytest.raises(ValueError, match="target's shape"):
    jd.simple_loss(PROCESS, lambda x, t: x[..., :1], KEY, X_0)
