"""Guidance on data whose exact conditional is known."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxgen.diffusion as jd

NAMES = ("linear", "vp", "ve", "karras")


def component(k):
  one = oracles.MIXTURE_2D
  return oracles.Mixture(np.ones(1), one.means[k : k + 1], one.stds[k : k + 1])


def log_prob_of(process, k):
  """log p(component k | x_t), by Bayes' rule."""

  def log_prob(x, t):
    def one(x, t):
      alpha, sigma = process.alpha(t), process.sigma(t)
      whole = oracles.log_density(oracles.MIXTURE_2D, alpha, sigma, x)
      part = oracles.log_density(component(k), alpha, sigma, x)
      return jnp.log(oracles.MIXTURE_2D.weights[k]) + part - whole

    return jax.vmap(one)(x, t)

  return log_prob


def points(process, name):
  t = jnp.asarray(oracles.grid(process, 8)[1:7])
  x = jax.random.normal(jax.random.key(0), (6, 2))
  return x * jnp.maximum(process.sigma(t), 0.5)[:, None], t


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_classifier_makes_the_exact_conditional(name):
  """At scale 1 the guided estimate is that of the component alone."""
  process = oracles.PROCESSES[name]
  x, t = points(process, name)
  denoiser = jd.classifier_guided(
    process,
    oracles.denoiser(process, oracles.MIXTURE_2D),
    log_prob_of(process, 1),
    1.0,
  )
  guided = jax.jit(denoiser)(x, t)
  exact = jax.jit(oracles.denoiser(process, component(1)))(x, t)
  np.testing.assert_allclose(guided.eps, exact.eps, rtol=2e-3, atol=1e-3)
  np.testing.assert_allclose(guided.x_0, exact.x_0, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("how", ["mean", "eps"])
def test_guided_samples_are_those_of_the_class(how):
  """ADM's Algorithms 1 and 2 on the ancestral sampler."""
  process = oracles.PROCESSES["linear"]
  denoiser = oracles.denoiser(process, oracles.MIXTURE_2D)
  log_prob = log_prob_of(process, 0)
  if how == "eps":
    guided = jd.classifier_guided(process, denoiser, log_prob, 1.0)
    sampler = jd.ancestral(process, guided)
  else:
    gradient = jd.log_prob_gradient(log_prob, 1.0)
    sampler = jd.ancestral(process, denoiser, gradient=gradient)
  x_T = jd.prior(process, jax.random.key(0), (4000, 2))
  times = jd.descending_times(1000, 250)
  x = jax.jit(lambda x: jd.sample(jax.random.key(1), x, times, sampler))(x_T)
  mean, std = oracles.MIXTURE_2D.means[0], oracles.MIXTURE_2D.stds[0]
  np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
  np.testing.assert_allclose(x.std(0), [std, std], rtol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_classifier_free_with_exact_parts(name):
  """Scale 0, 1 and beyond: log p(x) + scale log p(y | x) by autodiff."""
  process = oracles.PROCESSES[name]
  x, t = points(process, name)
  whole = oracles.denoiser(process, oracles.MIXTURE_2D)
  part = oracles.denoiser(process, component(0))
  free = jax.jit(
    lambda scale: jd.classifier_free(process, part, whole, scale)(x, t)
  )
  np.testing.assert_allclose(free(0.0).eps, whole(x, t).eps, rtol=1e-5)
  np.testing.assert_allclose(
    free(1.0).eps, part(x, t).eps, rtol=1e-4, atol=1e-6
  )
  guided = jd.classifier_guided(process, whole, log_prob_of(process, 0), 3.0)
  by_classifier = jax.jit(guided)(x, t)
  np.testing.assert_allclose(
    free(3.0).eps, by_classifier.eps, rtol=5e-3, atol=5e-3
  )


@pytest.mark.parametrize("kind", ["eps", "x_0", "velocity"])
def test_one_call_on_a_double_batch(kind):
  """Every parameterisation mixes as eps does."""
  process = oracles.PROCESSES["linear"]
  x, t = points(process, "linear")
  calls = []
  nets = [
    oracles.networks(process, mixture)[kind]
    for mixture in (component(0), oracles.MIXTURE_2D)
  ]

  def network(x, t, condition):
    calls.append(x.shape)
    outputs = jnp.stack([net(x, t) for net in nets])
    return jnp.where(condition[:, None] == 0, outputs[0], outputs[1])

  condition = jnp.zeros(6, jnp.int32)
  guided = jd.guided_network(network, condition, condition + 1, 2.5)
  got = jax.jit(oracles.DENOISERS[kind](process, guided))(x, t)
  assert calls == [(12, 2)]
  conditional, without = (oracles.DENOISERS[kind](process, n) for n in nets)
  free = jd.classifier_free(process, conditional, without, 2.5)
  want = jax.jit(free)(x, t)
  np.testing.assert_allclose(got.eps, want.eps, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(got.x_0, want.x_0, rtol=1e-3, atol=1e-3)


def test_a_negative_prompt_is_another_empty_condition():
  """Contexts [B, L, D], one mixed into each example of the double batch."""
  x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
  texts = jax.random.normal(jax.random.key(1), (3, 3, 7, 5))
  t = jnp.array([3, 500, 900])

  def network(x, t, context):
    shift = jnp.tanh(context.mean((1, 2)) + t / 1000)
    return jnp.sin(x + shift[:, None, None, None])

  separate = jax.jit(jax.vmap(network, (None, None, 0)))(x, t, texts)

  @jax.jit
  def guided(condition, no_condition):
    return jd.guided_network(network, condition, no_condition, 7.5)(x, t)

  for negative in (1, 2):
    got = guided(texts[0], texts[negative])
    want = separate[negative] + 7.5 * (separate[0] - separate[negative])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_conditions_of_two_shapes_are_refused():
  with pytest.raises(ValueError, match=r"same shapes, got \(3, 77, 8\) and"):
    jd.guided_network(
      lambda x, t, c: x, jnp.zeros((3, 77, 8)), jnp.zeros((1, 77, 8)), 7.5
    )
