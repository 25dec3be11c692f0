"""Attention maps: which way round they are, and the figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beit import attention
from experiments.beit.model import Pretrained
from jaxgen.convert import beit
from jaxgen.data import save_png
from jaxgen.nn.beit import Beit, MaskedImageModel

NETWORK = Beit(4, 16, 2, 2, 32)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def planted():
  """Queries and keys are 0; biases are all there is, drawn at random."""
  x = jnp.zeros((1, 16, 16, 3))
  shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), x)["params"]
  params = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), shapes)
  # In the first head 20 for the patch on the right of the query, in the second
  # for the one below: entry (dy + 3) 7 + dx + 3 for the query less the key.
  table = params["relative_bias"]["table"]
  table[3 * 7 + 2, 0] = 20
  table[2 * 7 + 3, 1] = 20
  return Pretrained(NETWORK, params, {}, 16, "half")


def test_a_patch_looks_where_it_is_told(planted):
  maps = attention.attention_maps(planted, IMAGES / 127.5 - 1.0)
  assert maps.shape == (2, 2, 4, 4, 4, 4)
  right, below = np.zeros((4, 4)), np.zeros((4, 4))
  right[1, 3] = below[2, 2] = 1
  np.testing.assert_allclose(maps[0, 0, 1, 2], right, atol=1e-6)
  np.testing.assert_allclose(maps[1, 1, 1, 2], below, atol=1e-6)
  # None is below the last row: evenly, the class token included.
  np.testing.assert_allclose(maps[1, 1, 3, 0], 1 / 17, rtol=1e-5)
  with pytest.raises(ValueError, match=r"in \[-2, 2\), got 2"):
    attention.attention_maps(planted, IMAGES / 127.5 - 1.0, block=2)


def test_colours_of_heat():
  weights = np.array([[[0.0, 0.1], [0.2, 0.3]]])
  colours = [[[0, 0, 0], [255, 0, 0]], [[255, 255, 0], [255, 255, 255]]]
  np.testing.assert_array_equal(attention.heat(weights), [colours])


def test_the_figure():
  """A row for each query; it is framed, and its map is beside it."""
  maps = np.zeros((2, 1, 4, 4, 4, 4), np.float32)
  maps[:, :, 1, 2, 0, 3] = 1
  drawn = attention.figure(IMAGES, maps, [(1, 2), (0, 0)])
  cell = 7 * 16  # enlarged to at least 112 pixels
  assert drawn.shape == (2 + 4 * (cell + 2), 2 + 2 * (cell + 2), 3)
  at = lambda row, column, y, x: tuple(
    drawn[2 + row * (cell + 2) + 7 * y, 2 + column * (cell + 2) + 7 * x]
  )
  assert at(0, 0, 4, 8) == (255, 0, 0)
  assert at(0, 0, 5, 9) == tuple(IMAGES[0, 5, 9])
  assert at(0, 1, 3, 12) == (255, 255, 255)
  assert at(0, 1, 4, 12) == (0, 0, 0)
  assert at(1, 0, 0, 3) == (255, 0, 0)
  assert at(2, 0, 5, 9) == tuple(IMAGES[1, 5, 9])


def test_queries():
  assert attention.chosen_queries((), 14) == [(4, 4), (7, 7), (9, 9)]
  assert attention.chosen_queries(((0, 13),), 14) == [(0, 13)]
  with pytest.raises(ValueError, match=r"4 x 4 patches, got \(0, 4\)"):
    attention.chosen_queries(((0, 4),), 4)


def test_the_command(planted, tmp_path):
  """A released file and a folder of pictures."""
  torch = pytest.importorskip("torch")
  network = MaskedImageModel(NETWORK, 8)
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3))
  )
  params = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), shapes)
  params = {**params["params"], "backbone": planted.params}
  state = beit.to_original(params)
  tensors = {k: torch.from_numpy(np.array(x)) for k, x in state.items()}
  file = tmp_path / "beit_tiny_pt22k.pth"
  torch.save({"model": tensors}, file)
  pictures = tmp_path / "pictures"
  for i, image in enumerate(IMAGES):
    save_png(pictures / f"{i}.png", image.repeat(2, 1))
  out = tmp_path / "maps.png"
  attention.main(str(file), str(pictures), n=1, heads=True, out=str(out))
  assert out.exists()
  with pytest.raises(ValueError, match="a file, which needs --images"):
    attention.main(str(file), out=str(out))
  empty = tmp_path / "empty"
  empty.mkdir()
  with pytest.raises(ValueError, match="has no images of"):
    attention.main(str(file), str(empty), out=str(out))
