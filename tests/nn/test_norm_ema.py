"""BEiT v2's codebook, against its rule in numpy and on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import training
from jaxgen.nn import norm_ema
from jaxgen.nn.norm_ema import Codebook

RNG = np.random.default_rng(0)
Z = RNG.standard_normal((16, 3, 4), np.float32)


def l2(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def codebook(n=64, d=4, seed=1):
  e = l2(np.random.default_rng(seed).standard_normal((n, d)))
  return Codebook(jnp.float32(e), jnp.zeros(n), jnp.ones((), bool))


def rule(e, z, decay):
  """The update of the paper's code, vector by vector, in float64."""
  z, e = l2(np.float64(z)), np.float64(e)
  indices = [np.argmin(((v - e) ** 2).sum(-1)) for v in z.reshape(-1, 4)]
  new, counts = e.copy(), np.zeros(len(e))
  for k in set(indices):
    members = z.reshape(-1, 4)[np.equal(indices, k)]
    counts[k] = len(members)
    mean = members.sum(0) / len(members)
    new[k] = decay * e[k] + (1 - decay) * mean / np.linalg.norm(mean)
    new[k] /= np.linalg.norm(new[k])
  return np.reshape(indices, z.shape[:-1]), new, counts


@jax.jit
def step(book, z):
  found = norm_ema.quantize(z, book)
  return found, norm_ema.updated(book, z, found.indices, 0.9)


def test_several_updates_by_the_rule():
  book, e, usage = codebook(), codebook().embedding, np.zeros(64)
  for seed in range(4):
    z = np.random.default_rng(seed).standard_normal(Z.shape, np.float32)
    indices, new, counts = rule(e, z, 0.9)
    found, book = step(book, z)
    np.testing.assert_array_equal(found.indices, indices)
    codes = np.asarray(e)[indices]
    np.testing.assert_allclose(found.z_q, codes, atol=1e-6)
    want = np.square(l2(z) - codes).mean()  # over the channels, too
    assert found.loss == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(book.embedding, new, atol=2e-7)
    unused = counts == 0
    assert 0 < unused.sum() < 64
    before, after = np.asarray(e)[unused], np.asarray(book.embedding)[unused]
    np.testing.assert_array_equal(after, before)
    usage = 0.9 * usage + 0.1 * counts
    np.testing.assert_allclose(book.usage, usage, rtol=1e-5)
    assert norm_ema.unused_codes(book) == (usage == 0).sum()
    e = book.embedding


def test_evaluation_only_counts():
  book = codebook()
  indices = step(book, Z)[0].indices
  after = norm_ema.counted(book, indices, 0.9)
  np.testing.assert_array_equal(after.embedding, book.embedding)
  counts = np.bincount(np.ravel(indices), minlength=64)
  np.testing.assert_allclose(after.usage, 0.1 * counts, rtol=1e-6)


def test_gradients_stop_at_the_codes():
  """By z: through the normalisation, (I - u u^T) / |z|; by codes: none."""
  slope = jnp.float32(RNG.standard_normal(Z.shape))

  def f(z, e):
    book = Codebook(e, jnp.zeros(64), jnp.ones((), bool))
    found = norm_ema.quantize(z, book)
    after = norm_ema.updated(book, z, found.indices)
    total = (found.z_q * slope).sum() + found.loss
    return total + 0 * jax.lax.stop_gradient(after.embedding).sum()

  by_z, by_codes = jax.jit(jax.grad(f, (0, 1)))(
    jnp.float32(Z), codebook().embedding
  )
  np.testing.assert_array_equal(by_codes, 0)
  u, norm = l2(Z), np.linalg.norm(Z, axis=-1, keepdims=True)
  codes = np.asarray(codebook().embedding)[step(codebook(), Z)[0].indices]
  g = np.asarray(slope) + 2 * (u - codes) / u.size
  want = (g - u * (g * u).sum(-1, keepdims=True)) / norm
  np.testing.assert_allclose(by_z, want, atol=2e-6)
  at_zero = jax.grad(lambda z: norm_ema.unit(z).sum())(jnp.zeros(3))
  assert np.isfinite(at_zero).all()


def test_eight_devices_are_as_one():
  """Under jit on a mesh, and with the batch's parts under pmap."""
  found, want = step(codebook(), Z)
  mesh = training.make_mesh()
  batch = training.shard_batch(mesh, Z)
  book = training.shard_state(mesh, codebook())
  places = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  assert batch.sharding == places
  on_mesh, after = step(book, batch)
  np.testing.assert_array_equal(on_mesh.indices, found.indices)
  np.testing.assert_allclose(on_mesh.loss, found.loss, rtol=1e-6)

  def part(book, z):
    indices = norm_ema.quantize(z, book).indices
    book = norm_ema.updated(book, z, indices, 0.9, axis_name="batch")
    return book, norm_ema.counted(book, indices, 0.9, "batch")

  parts, again = jax.pmap(part, "batch", in_axes=(None, 0))(
    codebook(), Z.reshape(8, 2, 3, 4)
  )
  for name in ("embedding", "usage"):
    wanted, of_parts = getattr(want, name), getattr(parts, name)
    np.testing.assert_allclose(getattr(after, name), wanted, atol=1e-6)
    for device in range(8):
      np.testing.assert_allclose(of_parts[device], wanted, atol=1e-6)
  np.testing.assert_allclose(again.usage[3], 1.9 * want.usage, rtol=1e-5)


def test_kmeans_finds_separate_clusters():
  """Three narrow cones; the centres are the normalised means of each."""
  axes = np.eye(4, dtype=np.float32)[:3]
  noise = 0.05 * RNG.standard_normal((3, 20, 4)).astype(np.float32)
  z = axes[:, None] + noise
  start = jnp.asarray(l2(z)[:, 0])
  found = norm_ema.lloyd(norm_ema.unit(z).reshape(-1, 4), start, 3)
  np.testing.assert_allclose(found, l2(l2(z).mean(1)), atol=1e-6)
  # With more centres than vectors, each vector is one, or stays unchosen.
  few = np.asarray(norm_ema.kmeans(jax.random.key(0), z[0, :2], 7))
  distance = np.linalg.norm(few[:, None] - l2(z[0, :2]), axis=-1).min(-1)
  np.testing.assert_allclose(distance, 0, atol=1e-6)


def test_the_codebook_starts_once():
  waiting = norm_ema.waiting_codebook(5, 4)
  assert not waiting.started
  start = jax.jit(norm_ema.started)
  book = start(jax.random.key(0), waiting, Z)
  assert book.started
  # Each centre is the mean of those that chose it, or was left alone.
  e = np.asarray(book.embedding)
  np.testing.assert_allclose(np.linalg.norm(e, axis=-1), 1, rtol=1e-6)
  chosen = (l2(Z).reshape(-1, 4) @ e.T).argmax(-1)
  for k in range(5):
    mean = l2(Z).reshape(-1, 4)[chosen == k].mean(0)
    assert l2(mean) @ e[k] > 0.98
  again = start(jax.random.key(1), book, 1 - Z)
  np.testing.assert_array_equal(again.embedding, book.embedding)


def test_restarts():
  """Below half of the mean share; usage 0, 1, 4, 3 has the mean 2."""
  e = codebook(4).embedding
  book = Codebook(e, jnp.array([0.0, 1, 4, 3]), jnp.ones((), bool))
  z = jnp.ones((1, 4))
  found = norm_ema.restarted(jax.random.key(0), book, z, 0.6)
  np.testing.assert_allclose(found.embedding[:2], 0.5, rtol=1e-6)
  np.testing.assert_array_equal(found.embedding[2:], e[2:])
  np.testing.assert_array_equal(found.usage, [2, 2, 4, 3])
  found = norm_ema.restarted(jax.random.key(0), book, z, 0.0)
  np.testing.assert_array_equal(found.embedding, e)


def test_random_codes_are_uniform_on_the_sphere():
  e = norm_ema.random_codebook(jax.random.key(0), 4000, 3).embedding
  np.testing.assert_allclose(np.linalg.norm(e, axis=-1), 1, rtol=1e-6)
  assert np.abs(e.mean(0)).max() < 4 * (1 / 3 / 4000) ** 0.5


def test_other_channels_are_one_sentence():
  with pytest.raises(ValueError, match=r"64 codes of 4 channels .* \(2, 3\)"):
    norm_ema.quantize(jnp.zeros((2, 3)), codebook())
