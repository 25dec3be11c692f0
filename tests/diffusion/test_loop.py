"""The loop: equal to stepping by hand, per-example keys, pmap and meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxgen.diffusion as jd

PROCESS = jd.DiscreteProcess.from_betas(jd.linear_betas())
TIMES = jd.descending_times(1000, 6)


def network(x, t):
  return jnp.tanh(x) * (t[:, None] / 1000.0)


def sampler(eta=1.0):
  return jd.ddim(PROCESS, jd.eps_denoiser(PROCESS, network), eta=eta)


def test_trajectory_ends_in_sample_and_starts_at_x():
  x = jd.prior(PROCESS, jax.random.key(1), (3, 2))
  last = jd.sample(jax.random.key(0), x, TIMES, sampler())
  path = jd.trajectory(jax.random.key(0), x, TIMES, sampler())
  assert path.shape == (7, 3, 2)
  np.testing.assert_array_equal(path[0], x)
  np.testing.assert_array_equal(path[-1], last)


def test_sample_is_the_step_repeated():
  x = jd.prior(PROCESS, jax.random.key(1), (3, 2))
  method = sampler(eta=0.0)
  by_hand = x
  for t, s in zip(TIMES, TIMES[1:], strict=False):
    by_hand, _ = method.step(jax.random.key(9), by_hand, t, s, ())
  last = jd.sample(jax.random.key(0), x, TIMES, method)
  np.testing.assert_allclose(last, by_hand, rtol=1e-5, atol=1e-6)


def test_keys_per_example_do_not_depend_on_the_batch():
  keys = jax.random.split(jax.random.key(0), 8)
  run = jax.jit(
    lambda k: jd.sample(k, jd.prior(PROCESS, k, (len(k), 5)), TIMES, sampler())
  )
  whole = run(keys)
  np.testing.assert_allclose(run(keys[2:4]), whole[2:4], rtol=1e-5, atol=1e-6)
  assert np.unique(np.asarray(whole)[:, 0]).size == 8


def test_a_batch_on_eight_devices_equals_one():
  keys = jax.random.split(jax.random.key(0), 16)
  mesh = jax.make_mesh((8,), ("data",))
  spread = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("data")))

  @jax.jit
  def run(k):
    x = jd.prior(PROCESS, k, (16, 5))
    return jd.sample(k, x, TIMES, sampler())

  sharded = run(spread)
  assert len(sharded.sharding.device_set) == 8
  np.testing.assert_allclose(sharded, run(keys), rtol=1e-5, atol=1e-6)


def test_primitives_under_pmap():
  """Eight devices, each its own batch; equal to the same calls under vmap."""
  keys = jax.random.split(jax.random.key(0), 8)
  x_0 = jax.random.uniform(jax.random.key(2), (8, 4, 3), minval=-1.0)

  def primitives(key, x_0):
    t = jd.random_times(PROCESS, key, 4)
    x_t, eps = jd.q_sample(PROCESS, key, x_0, t)
    prediction = jd.from_eps(PROCESS, x_t, t, eps)
    mean, variance = jd.posterior(PROCESS, x_t, x_0, t, t - 1)
    x_T = jd.prior(PROCESS, key, (4, 3))
    return {
      "x_0": prediction.x_0,
      "mean": mean,
      "variance": variance,
      "sample": jd.sample(key, x_T, TIMES, sampler()),
      "loss": jd.simple_loss(PROCESS, network, key, x_0),
      "bound": jd.vlb_loss(
        PROCESS, jd.eps_denoiser(PROCESS, network), key, x_0
      ),
    }

  parallel = jax.pmap(primitives)(keys, x_0)
  for name, expected in jax.jit(jax.vmap(primitives))(keys, x_0).items():
    np.testing.assert_allclose(
      parallel[name], expected, rtol=2e-4, atol=2e-5, err_msg=name
    )


def test_gradients_under_pmap_average_to_the_global_batch():
  x_0 = jax.random.normal(jax.random.key(3), (8, 2, 3))
  t = jax.random.randint(jax.random.key(4), (8, 2), 1, 1001)

  def loss(scale, key, x_0, t):
    net = lambda x, t: scale * x
    return jd.simple_loss(PROCESS, net, key, x_0, t)

  @functools.partial(jax.pmap, axis_name="data", in_axes=(None, 0, 0, 0))
  def gradient(scale, key, x_0, t):
    return jax.lax.pmean(jax.grad(loss)(scale, key, x_0, t), "data")

  keys = jax.random.split(jax.random.key(0), 8)
  every = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0, 0)))
  each = every(0.3, keys, x_0, t)
  np.testing.assert_allclose(
    gradient(0.3, keys, x_0, t), jnp.full(8, each.mean()), rtol=1e-5
  )


def test_bfloat16_states_keep_float32_schedules():
  """The samples are bf16; alpha and sigma are not rounded to it."""
  x = jd.prior(PROCESS, jax.random.key(1), (64, 2))
  net = lambda x, t: 0.1 * x
  method = jd.ddim(PROCESS, jd.eps_denoiser(PROCESS, net))
  full = jd.sample(jax.random.key(0), x, TIMES, method)
  half = jd.sample(jax.random.key(0), x.astype(jnp.bfloat16), TIMES, method)
  assert half.dtype == jnp.bfloat16
  alpha, sigma = jd.marginal(PROCESS, jnp.asarray(500), x.astype(jnp.bfloat16))
  assert alpha.dtype == sigma.dtype == jnp.float32
  np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("times", ([5, 5, 3], [5, 3, 4], [5], [[5, 3]]))
def test_a_grid_must_be_strictly_monotone(times):
  x = jnp.zeros((1, 2))
  with pytest.raises(ValueError, match="times must"):
    jd.sample(jax.random.key(0), x, np.array(times), sampler())


def test_a_grid_outside_the_process_is_refused():
  x = jnp.zeros((1, 2))
  with pytest.raises(ValueError, match=r"times must lie in \[0, 1000\]"):
    jd.sample(jax.random.key(0), x, np.array([1200, 800, 0]), sampler())


@pytest.mark.parametrize("eta", (-0.1, 1.5))
def test_eta_lies_between_zero_and_one(eta):
  with pytest.raises(ValueError, match="eta must lie in"):
    sampler(eta)
