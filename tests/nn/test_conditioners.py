import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.convert import ldm_unet
from jaxgen.nn.conditioners import CONDITIONERS, ClassEmbedder, SpatialRescaler


def test_label_is_a_token():
  embedder = ClassEmbedder(5, 3)
  weight = np.arange(15, dtype=np.float32).reshape(5, 3)
  params = ldm_unet.embedder_from_original(
    {"embedding.weight": weight}, embedder
  )
  back = ldm_unet.embedder_to_original(params)
  np.testing.assert_array_equal(back["embedding.weight"], weight)
  tokens = embedder.apply({"params": params}, np.array([4, 0]))
  np.testing.assert_array_equal(tokens, [[[12, 13, 14]], [[0, 1, 2]]])


def test_map_is_rescaled_as_pytorch_does():
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 8, 12, 7), np.float32)
  weight = rng.standard_normal((3, 7, 1, 1), np.float32)
  rescaler = SpatialRescaler()
  state = {"channel_mapper.weight": weight}
  params = ldm_unet.rescaler_from_original(state, rescaler)
  back = ldm_unet.rescaler_to_original(params)
  np.testing.assert_array_equal(back["channel_mapper.weight"], weight)
  want = torch.from_numpy(x).permute(0, 3, 1, 2)
  for _ in range(2):
    want = torch.nn.functional.interpolate(
      want, scale_factor=0.5, mode="bilinear"
    )
  want = torch.nn.functional.conv2d(want, torch.from_numpy(weight))
  got = rescaler.apply({"params": params}, x)
  np.testing.assert_allclose(got, want.permute(0, 2, 3, 1), atol=1e-6)


def test_parameter_counts():
  """1000 or 1001 classes of 512; 182 classes of COCO-Stuff to 3 channels."""
  inputs = {"cin": jnp.zeros(1, int), "sem": jnp.zeros((1, 8, 8, 182))}
  counts = {"cin256": 512_000, "cin256_v2": 512_512}
  counts |= {f"semantic_synthesis{size}": 546 for size in (256, 512)}
  for name, module in CONDITIONERS.items():
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs[name[:3]])
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == counts[name]


def test_bad_input_is_one_sentence():
  key = jax.random.key(0)
  with pytest.raises(ValueError, match=r"y of shape \[B\], got \(2, 1\)\."):
    ClassEmbedder().init(key, jnp.zeros((2, 1), int))
  with pytest.raises(ValueError, match=r"by 4, got \(1, 8, 6, 3\)\."):
    SpatialRescaler().init(key, jnp.zeros((1, 8, 6, 3)))
  with pytest.raises(ValueError, match=r"missing: channel_mapper\.weight"):
    ldm_unet.rescaler_from_original({}, SpatialRescaler())
  state = {"embedding.weight": np.ones((5, 3), np.float32), "decay": 1}
  with pytest.raises(ValueError, match=r"unused: decay\.$"):
    ldm_unet.embedder_from_original(state, ClassEmbedder(5, 3))
