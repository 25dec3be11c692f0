import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import resample

DATA = Path(__file__).parents[1] / "data"
# StyleGAN2's operators as score_sde_pytorch and, at "upsample_conv", score_sde
# have them: tests/data/PROVENANCE.md.
ARRAYS = {
  name: array
  for file in ("score_sde_torch.npz", "score_sde_flax.npz")
  for name, array in np.load(DATA / file).items()
  if name.startswith("fir/")
}
X, KERNEL = ARRAYS["fir/x"], ARRAYS["fir/kernel"]
OPERATIONS = {
  "upfirdn": lambda arguments: resample.upfirdn(X, *arguments),
  "upsample": lambda taps: resample.upsample(X, taps),
  "downsample": lambda taps: resample.downsample(X, taps),
  "upsample_conv": lambda taps: resample.upsample_conv(X, KERNEL, taps),
  "downsample_conv": lambda taps: resample.downsample_conv(X, KERNEL, taps),
}


@pytest.mark.parametrize("name", [n for n in ARRAYS if "[" in n])
def test_equals_the_original_operator(name):
  operation, arguments = name.removeprefix("fir/").split(" ", 1)
  ours = OPERATIONS[operation](json.loads(arguments))
  theirs = ARRAYS[name]
  assert ours.shape == theirs.shape
  # float32 sums of up to 25 taps, some of which cancel
  np.testing.assert_allclose(
    ours, theirs, rtol=0, atol=4e-6 * np.abs(theirs).max()
  )


def test_plain_resampling_is_nearest_neighbour_and_mean():
  np.testing.assert_allclose(resample.upsample(X), ARRAYS["fir/nearest"])
  np.testing.assert_allclose(
    resample.downsample(X), ARRAYS["fir/mean"], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(
    resample.upsample(X), X.repeat(2, axis=1).repeat(2, axis=2)
  )


def test_the_impulse_response_is_the_normalised_kernel():
  """[1, 3, 3, 1] in two dimensions: .015625 outside, .140625 inside."""
  impulse = jnp.zeros((1, 8, 8, 1)).at[0, 3, 3, 0].set(1)
  response = resample.downsample(impulse, (1, 3, 3, 1))
  both = resample.upsample(impulse, (1, 3, 3, 1))
  assert both.sum() == pytest.approx(4)
  assert both.max() == pytest.approx(4 * 0.140625)
  assert both[both > 0].min() == pytest.approx(4 * 0.015625)
  assert both.shape == (1, 16, 16, 1)
  assert response[0, 1:3, 1:3, 0].tolist() == [
    [0.140625, 0.046875],
    [0.046875, 0.015625],
  ]


def test_constants_stay_inside_the_border():
  x = jnp.ones((1, 8, 8, 2))
  for y in (
    resample.upsample(x, (1, 3, 3, 1)),
    resample.downsample(x, (1, 3, 3, 1)),
  ):
    np.testing.assert_allclose(y[:, 1:-1, 1:-1], 1)


def test_downsampling_is_the_transpose_of_upsampling():
  """Of a quarter of it: <up(x), y> = 4 <x, down(y)>."""
  y = jax.random.normal(jax.random.key(0), (2, 12, 16, 3))
  taps = (1, 3, 3, 1)
  left = jnp.vdot(resample.upsample(X, taps), y)
  assert left == pytest.approx(4 * jnp.vdot(X, resample.downsample(y, taps)))


def test_too_small_a_map_is_one_sentence():
  with pytest.raises(
    ValueError, match="at least 4 pixels after padding, got 2"
  ):
    resample.upfirdn(jnp.zeros((1, 2, 2, 1)), (1, 3, 3, 1))


def test_keeps_the_type():
  x = jnp.zeros((1, 4, 4, 1), jnp.bfloat16)
  assert resample.upsample(x, (1, 3, 3, 1)).dtype == jnp.bfloat16
