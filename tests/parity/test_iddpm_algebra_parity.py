"""The algebra of openai/improved-diffusion, from stored arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.diffusion as jd
from jaxgen.diffusion import importance, likelihood, samplers

STORED = dict(np.load(Path(__file__).parents[1] / "data" / "iddpm.npz"))
T = 100
PROCESS = jd.DiscreteProcess.from_betas(jd.cosine_betas(T))
TIMES = jnp.array([1, 2, 58, 100])  # the original counts from 0
VARIANCE = {"large": jd.FIXED_LARGE, "small": jd.FIXED_SMALL}


def nhwc(x):
  return jnp.moveaxis(jnp.asarray(x), -3, -1)


X_0, DRAWS = nhwc(STORED["x_0"]), nhwc(STORED["draws"])


def network(x, t):
  """eps and v of the script, which counts times from 0."""
  t = (t - 1).astype(jnp.float32).reshape(-1, 1, 1, 1)
  eps = 0.4 * x + 0.1 * jnp.sin(3 * x) + 0.05 * t / T
  return jnp.concatenate([eps, jnp.cos(2 * x)], axis=-1)


def learned_network(x, t):
  eps, _ = jnp.split(network(x, t), 2, axis=-1)
  return jnp.concatenate([eps, jnp.sin(2 * x) - 3], axis=-1)


def eps_network(x, t):
  return jnp.split(network(x, t), 2, axis=-1)[0]


DENOISERS = {
  "range": jd.learned_range_denoiser(PROCESS, network),
  "learned": jd.learned_variance_denoiser(PROCESS, learned_network),
  "large": jd.eps_denoiser(PROCESS, eps_network),
  "small": jd.eps_denoiser(PROCESS, eps_network),
}


def noised():
  """x_t of the stored noise."""
  alpha, sigma = jd.marginal(PROCESS, TIMES, X_0)
  return alpha * X_0 + sigma * DRAWS[0]


def close(got, want, tolerance=1e-5):
  assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("name", DENOISERS)
def test_p_mean_variance(name):
  x_t, denoiser = noised(), jd.clip_x_0(PROCESS, DENOISERS[name])
  _, least = jd.posterior(PROCESS, x_t, x_t, jnp.full(4, 2), jnp.full(4, 1))
  mean, log_variance = jd.p_mean_variance(
    PROCESS,
    denoiser(x_t, TIMES),
    x_t,
    TIMES,
    TIMES - 1,
    VARIANCE.get(name, jd.FIXED_SMALL),
    least,
  )
  close(mean, nhwc(STORED[f"{name}/mean"]))
  want = nhwc(STORED[f"{name}/log_variance"])
  close(jnp.broadcast_to(log_variance, want.shape), want)


@pytest.mark.parametrize("name", DENOISERS)
def test_vb_terms(name):
  x_t = noised()
  bits = likelihood.vlb_term(
    PROCESS,
    DENOISERS[name](x_t, TIMES),
    X_0,
    x_t,
    TIMES,
    TIMES - 1,
    VARIANCE.get(name, jd.FIXED_SMALL),
  )
  close(bits, STORED[f"{name}/bits"])


@pytest.mark.parametrize("loss", ["hybrid", "plain", "bound"])
def test_training_losses(loss, monkeypatch):
  """Example by example, from the same noise."""
  key = jax.random.key(0)
  for i in range(4):
    one = slice(i, i + 1)
    monkeypatch.setattr(
      "jaxgen.diffusion.gaussian.normal_like",
      lambda key, x, one=one: DRAWS[0][one],
    )
    x_0, t = X_0[one], TIMES[one]
    if loss == "bound":
      got = jd.vlb_loss(PROCESS, DENOISERS["range"], key, x_0, t=t)
    else:
      weight = {"hybrid": 0.001, "plain": 1 / T}[loss]
      got = jd.hybrid_loss(PROCESS, network, key, x_0, weight, t)
    close(got, STORED[f"{loss}/loss"][i])


@pytest.mark.slow
def test_the_bound_teaches_the_variance_alone():
  """Gradients of eps are those of L_simple, those of v lambda times L_vlb's."""
  key = jax.random.key(0)

  def parts(a, b):
    def scaled(x, t):
      eps, v = jnp.split(network(x, t), 2, axis=-1)
      return jnp.concatenate([a * eps, b * v], axis=-1)

    hybrid = jd.hybrid_loss(PROCESS, scaled, key, X_0, 0.001)
    simple = jd.simple_loss(
      PROCESS, lambda x, t: jnp.split(scaled(x, t), 2, axis=-1)[0], key, X_0
    )
    denoiser = jd.learned_range_denoiser(PROCESS, scaled)
    return hybrid, simple, jd.vlb_loss(PROCESS, denoiser, key, X_0)

  by_eps = jax.jacobian(parts, 0)(1.0, 1.0)
  by_v = jax.jacobian(parts, 1)(1.0, 1.0)
  np.testing.assert_allclose(by_eps[0], by_eps[1], rtol=1e-5)
  np.testing.assert_allclose(by_v[0], 0.001 * by_v[2], rtol=1e-4)
  assert abs(by_eps[2]) > 0.01


@pytest.mark.parametrize(("spec", "chunk"), [("20", 7), ("5,8", 64)])
def test_calc_bpd_loop(spec, chunk, monkeypatch):
  """The whole bound on the respaced process."""
  times = jd.respaced_times(T, spec)

  def q_sample(process, key, x_0, t):
    eps = DRAWS[1:][jnp.argmax(jnp.asarray(times) == t)]
    alpha, sigma = jd.marginal(process, t, x_0)
    return alpha * x_0 + sigma * eps, eps

  monkeypatch.setattr(likelihood, "q_sample", q_sample)
  denoiser = jd.clip_x_0(PROCESS, DENOISERS["range"])
  found = jd.vlb_bits_per_dim(
    PROCESS, denoiser, jax.random.key(0), X_0, times=times, chunk=chunk
  )
  want = {k[len(f"nll_{spec}/") :]: STORED[k] for k in STORED if spec in k}
  close(found.total, want["total_bpd"])
  np.testing.assert_allclose(found.prior, want["prior_bpd"], atol=2e-6)
  close(found.terms[:, ::-1], want["vb"])
  close(found.x_0_mse[:, ::-1], want["xstart_mse"], 1e-4)
  close(found.eps_mse[:, ::-1], want["mse"], 1e-4)


@pytest.mark.parametrize("spec", ["20", "5,8"])
@pytest.mark.parametrize("name", ["ancestral", "ddim_0.0", "ddim_0.7"])
def test_samplers_of_the_respaced_process(name, spec, monkeypatch):
  """p_sample with learned variance and ddim_sample over all kept steps."""
  denoiser = jd.clip_x_0(PROCESS, DENOISERS["range"])
  if name == "ancestral":
    sampler = jd.ancestral(PROCESS, denoiser)
  else:
    sampler = jd.ddim(PROCESS, denoiser, float(name.removeprefix("ddim_")))
  times, x = jd.respaced_times(T, spec), DRAWS[0]
  for i in range(len(times) - 1):
    monkeypatch.setattr(
      samplers, "normal_like", lambda key, x, i=i: DRAWS[1 + i]
    )
    t, s = jnp.asarray(times[i]), jnp.asarray(times[i + 1])
    x, _ = sampler.step(None, x, t, s, ())
  close(x, nhwc(STORED[f"{name}_{spec}"]))


def test_resampler():
  """LossSecondMomentResampler: histories in order, uniform until all full."""
  history = importance.no_history(6)
  parts = zip(
    np.split(STORED["times"], 10),
    np.split(STORED["losses"], 10),
    STORED["weights"],
    strict=True,
  )
  uniform = 0
  for t, losses, want in parts:
    history = jax.jit(importance.update)(
      history, jnp.asarray(t) + 1, jnp.asarray(losses)
    )
    np.testing.assert_allclose(
      importance.probabilities(history), want, rtol=1e-5
    )
    uniform += np.ptp(want) < 1e-12
  assert 0 < uniform < 10
