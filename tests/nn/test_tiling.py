import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.tiling import tiled_decode


def enlarge(z):
  """A decoder that looks at single positions, f = 4."""
  return (2 * z + 1).repeat(4, axis=1).repeat(4, axis=2)


@pytest.mark.parametrize(
  ("size", "tile", "overlap"),
  [
    ((8, 8), 8, 2),
    ((5, 3), 8, 2),
    ((13, 21), 8, 3),
    ((9, 16), 8, 0),
    ((15, 12), 8, 7),
    ((24, 9), 8, 4),
  ],
)
def test_a_local_decoder_needs_no_blending(size, tile, overlap):
  z = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)
  got = jax.jit(lambda z: tiled_decode(enlarge, z, tile, overlap))(z)
  np.testing.assert_allclose(got, enlarge(z), rtol=1e-5, atol=1e-6)


def test_two_tiles_are_blended_linearly():
  """Tiles of 4 columns with 2 in common, each decoded to its own number."""
  z = jnp.arange(6.0)[None, None, :, None] * jnp.ones((1, 4, 1, 1))

  def decode(z):  # the first column's number, everywhere, f = 2
    return jnp.broadcast_to(z[:, :1, :1], (1, 8, 8, 1))

  got = tiled_decode(decode, z, tile=4, overlap=2)
  share = (np.arange(4) + 0.5) / 4  # of the second tile, at pixels' centres
  want = np.concatenate([np.zeros(4), 2 * share, np.full(4, 2.0)])
  np.testing.assert_allclose(got[0, :, :, 0], np.tile(want, (8, 1)), rtol=1e-6)


def test_every_tile_is_decoded_once_in_one_program():
  z = jnp.zeros((1, 20, 20, 1))
  f = lambda z: tiled_decode(enlarge, z, tile=8, overlap=2)
  steps = [e for e in jax.make_jaxpr(f)(z).eqns if e.primitive.name == "scan"]
  assert [step.params["length"] for step in steps] == [9]


@pytest.mark.parametrize("overlap", [-1, 8])
def test_bad_overlap_is_one_sentence(overlap):
  with pytest.raises(ValueError, match=f"got overlap {overlap} and tile 8"):
    tiled_decode(enlarge, jnp.zeros((1, 9, 9, 1)), 8, overlap)
