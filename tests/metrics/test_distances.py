import numpy as np
import pytest
import scipy.linalg

from jaxgen.metrics.distances import frechet_distance, kernel_distance
from jaxgen.metrics.moments import Gaussian, gaussian, merge, moments_of


def random_rotation(rng, dim):
  return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


def test_frechet_of_gaussians_with_one_basis_is_closed_form():
  """|m|^2 + sum (a - b)^2 for standard deviations a, b along shared axes."""
  rng = np.random.default_rng(0)
  basis = random_rotation(rng, 5)
  a, b = rng.uniform(0.1, 3, (2, 5))
  mean = rng.standard_normal(5)
  first = Gaussian(mean, basis * a**2 @ basis.T)
  second = Gaussian(np.zeros(5), basis * b**2 @ basis.T)
  want = (mean**2).sum() + ((a - b) ** 2).sum()
  np.testing.assert_allclose(frechet_distance(first, second), want, rtol=1e-10)
  np.testing.assert_allclose(frechet_distance(second, first), want, rtol=1e-10)


@pytest.mark.parametrize("n", [40, 300])
def test_frechet_agrees_with_scipy_on_ill_conditioned_covariances(n):
  """sqrtm of the product, also for n < D (where it is given an offset)."""
  rng = np.random.default_rng(1)
  scale = np.logspace(0, -3, 64)
  x = rng.standard_normal((n, 64)) * scale
  y = rng.standard_normal((n, 64)) * scale[::-1] + 0.1
  a, b = moments_of(x).gaussian, moments_of(y).gaussian
  product = a.covariance @ b.covariance
  if n < 64:  # singular: the eigenvalues' roots, which need no offset
    trace = np.sqrt(np.maximum(np.linalg.eigvals(product).real, 0)).sum()
  else:
    trace = np.trace(scipy.linalg.sqrtm(product).real)
  want = ((a.mean - b.mean) ** 2).sum() - 2 * trace
  want += np.trace(a.covariance) + np.trace(b.covariance)
  np.testing.assert_allclose(frechet_distance(a, b), want, rtol=1e-6)


def test_frechet_of_a_set_and_itself_is_zero():
  rng = np.random.default_rng(2)
  for n in (20, 500):
    x = moments_of(rng.standard_normal((n, 100)) * 5).gaussian
    assert frechet_distance(x, x) < 1e-6


def test_a_rotation_changes_no_distance():
  rng = np.random.default_rng(3)
  x, y = rng.standard_normal((2, 80, 100))
  y = y * np.linspace(0.1, 2, 100)
  turn = random_rotation(rng, 100)
  sets = [moments_of(z).gaussian for z in (x, y, x @ turn, y @ turn)]
  plain, turned = frechet_distance(*sets[:2]), frechet_distance(*sets[2:])
  np.testing.assert_allclose(turned, plain, rtol=1e-9)
  plain = kernel_distance(x, y, 5, 40)
  turned = kernel_distance(x @ turn, y @ turn, 5, 40)
  np.testing.assert_allclose(turned, plain, rtol=1e-9)


def test_kernel_distance_of_one_set_is_the_sum_over_pairs():
  """On all vectors: an unbiased mean over pairs, summed one by one."""
  rng = np.random.default_rng(4)
  x, y = rng.standard_normal((2, 6, 3)) + np.array([0, 1])[:, None, None]
  kernel = lambda a, b: (a @ b / 3 + 1) ** 3
  pairs = [(i, j) for i in range(6) for j in range(6)]
  want = np.mean(
    [kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j]
  ) - 2 * np.mean([kernel(x[i], y[j]) for i, j in pairs])
  mean, std = kernel_distance(x, y, subsets=3, subset_size=6)
  np.testing.assert_allclose(mean, want, rtol=1e-12)
  assert std < 1e-12  # every subset is the whole set


def test_kernel_distance_is_unbiased():
  """E[(x.y / D + 1)^3] is known in one dimension; equal laws give 0."""
  rng = np.random.default_rng(5)
  x, y = rng.standard_normal((2, 4000, 1))
  values = [
    kernel_distance(x[i : i + 40], y[i : i + 40] + 1, 1, 40)[0]
    for i in range(0, 4000, 40)
  ]
  # k = 1 + 3 u + 3 u^2 + u^3: x ~ N(0, 1) has moments 0, 1, 0, y 1, 2, 4.
  want = 3 * (0 - 1) ** 2 + 3 * (1 - 2) ** 2 + (0 - 4) ** 2
  error = np.std(values) / np.sqrt(len(values))
  assert abs(np.mean(values) - want) < 4 * error


def test_moments_of_parts_are_those_of_the_whole():
  """Chan's merge against numpy on features far from zero."""
  rng = np.random.default_rng(6)
  x = rng.standard_normal((1000, 4)) * 1e-3 + 1e5
  whole = merge(moments_of(part) for part in np.split(x, [1, 17, 600]))
  assert whole.n == 1000
  found = whole.gaussian
  np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-15)
  np.testing.assert_allclose(
    found.covariance, np.cov(x.T), rtol=1e-7, atol=1e-13
  )


def test_bad_input_is_one_sentence():
  one, two = (
    moments_of(np.arange(6.0).reshape(3, 2)).gaussian,
    moments_of(np.eye(3)).gaussian,
  )
  with pytest.raises(ValueError, match="of 2 and of 3 dimensions"):
    frechet_distance(one, two)
  with pytest.raises(ValueError, match="NaN"):
    moments_of(np.array([[np.nan]]))
  with pytest.raises(ValueError, match=r"shape \[n, D\]"):
    moments_of(np.zeros(3))
  with pytest.raises(ValueError, match="at least 2 vectors, got 1"):
    _ = moments_of(np.zeros((1, 3))).gaussian
  with pytest.raises(ValueError, match="not symmetric"):
    gaussian(np.zeros(2), np.array([[1, 0.5], [0, 1]]))
  with pytest.raises(ValueError, match="got 9"):
    kernel_distance(np.zeros((8, 2)), np.zeros((20, 2)), 1, 9)
  with pytest.raises(ValueError, match="no moments"):
    merge([])
