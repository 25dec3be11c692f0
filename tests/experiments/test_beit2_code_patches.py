"""Pictures of codes, of a tokenizer whose tokens are levels."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beit2 import code_patches
from experiments.tokenizers import Tokenizer


def by_level(params, images):
  """The token of a patch of 2 x 2 pixels is its first pixel's quarter."""
  levels = jnp.floor((images[:, ::2, ::2, 0] + 1) * 1.999)
  return levels.reshape(len(images), -1).astype(jnp.int32)


TOKENIZER = Tokenizer((), by_level, None, 4, 2, 1)
# Five images of 2 x 2 patches each.
TOKENS = np.array(
  [
    [[0, 0], [0, 1]],
    [[0, 3], [3, 1]],
    [[1, 0], [0, 3]],
    [[1, 1], [1, 1]],
    [[1, 1], [1, 3]],
  ]
)
IMAGES = (64 * TOKENS).astype(np.uint8).repeat(2, 1).repeat(2, 2)[..., None]


def test_tokens_keep_their_places():
  source = [{"image": image} for image in IMAGES]
  images, tokens = code_patches.encode(TOKENIZER, source, 4, batch_size=4)
  np.testing.assert_array_equal(images, IMAGES)
  np.testing.assert_array_equal(tokens, TOKENS)


def test_codes_are_ranked_by_their_images():
  """1 is in five images, 0 and 3 in three, 2 in none."""
  assert code_patches.choose(TOKENS, 4, 3, least=1) == [1, 0, 3]
  assert code_patches.choose(TOKENS, 4, 2, least=1) == [1, 3]
  assert code_patches.choose(TOKENS, 4, 3, least=4) == [1]
  rng = np.random.default_rng(0)
  found = code_patches.examples(TOKENS, 3, 5, rng)
  assert sorted(i for i, _, _ in found) == [1, 2, 4]
  assert all(TOKENS[place] == 3 for place in found)
  assert len(code_patches.examples(TOKENS, 1, 2, rng)) == 2


def test_a_patch_is_framed_in_its_neighbourhood():
  image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
  shown = code_patches.window(image, 0, 1, 2, 2)
  assert shown.shape == (12, 12, 3)
  assert (shown[:3] == 128).all()  # above is nothing
  # Inside of the frame the four pixels, each as 2 x 2.
  inside = shown[4:8, 4:8]
  np.testing.assert_array_equal(inside[::2, ::2, 0], [[2, 3], [6, 7]])
  red = (shown == (255, 0, 0)).all(-1)
  assert red.sum() == 4 * 5
  assert red[3, 3:9].all()
  assert red[8, 3:9].all()


def test_the_picture(tmp_path):
  path = tmp_path / "codes.png"
  codes = code_patches.draw(TOKENIZER, IMAGES, TOKENS, (2, 3), path)
  assert codes == [1, 3]
  assert path.stat().st_size > 100
  with pytest.raises(ValueError, match="none of 4 codes is in 6 of 5 images"):
    code_patches.draw(TOKENIZER, IMAGES, TOKENS, (2, 6), path)
  with pytest.raises(ValueError, match="a file: name its --dataset, --split"):
    code_patches.main(str(tmp_path / "absent.pth"))
