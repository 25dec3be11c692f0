"""BEiT v2 and its teachers against the original code, stored in beit2.npz."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from seeded_weights import seeded_state

from jaxgen.convert import beit, beit_files, clip_vision, dino, vqkd
from jaxgen.convert.beit import to_tensor
from jaxgen.masked import vq_kd_loss
from jaxgen.nn import norm_ema
from jaxgen.nn.beit import Beit, PatchAggregationModel
from jaxgen.nn.clip_vision import ClipVision
from jaxgen.nn.dino import Dino
from jaxgen.nn.norm_ema import Codebook
from jaxgen.nn.vqkd import (
  CLIP_COLOURS,
  IMAGENET_COLOURS,
  VQKD,
  PatchFeatures,
  plain_vit,
  teacher_images,
)

STORED = np.load(Path(__file__).parents[1] / "data/beit2.npz")
TOKENIZER = VQKD(
  PatchFeatures(plain_vit(32, 2, 4, 128, 8), 8),
  PatchFeatures(plain_vit(32, 1, 4, 128, 1), 12),
)
CODES = "quantize.embedding.weight"


def original_state(name):
  shapes = [tuple(s[s > 0].tolist()) for s in STORED[f"{name}_shapes"]]
  names = STORED[f"{name}_names"].tolist()
  state = seeded_state(dict(zip(names, shapes, strict=True)), 0)
  if CODES in state:
    state[CODES] /= np.linalg.norm(state[CODES], axis=1, keepdims=True)
    state["quantize.cluster_size"][:] = 0
    state["quantize.embedding.initted"][:] = 1
  return state


def close(found, want, tolerance=1e-5):
  error = np.linalg.norm(found - want) / np.linalg.norm(want)
  assert error < tolerance, error


def assert_equal(found, want):
  assert sorted(found) == sorted(want)
  for name, tensor in want.items():
    np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_the_codebook():
  z = STORED["ema_z"]
  u = norm_ema.unit(z[0]).reshape(-1, 8)
  close(norm_ema.lloyd(u, u[:10], 10), STORED["ema_kmeans"])
  start = jnp.asarray(STORED["ema_start"])
  book = Codebook(start, jnp.zeros(30), jnp.ones((), bool))

  @jax.jit
  def step(book, z):
    found = norm_ema.quantize(z, book)
    return found, norm_ema.updated(book, z, found.indices, 0.9)

  for i, batch in enumerate(z[1:]):
    found, book = step(book, batch)
    np.testing.assert_array_equal(found.indices, STORED["ema_tokens"][i])
    close(found.z_q, STORED["ema_z_q"][i])
    close(found.loss, STORED["ema_losses"][i])
    close(book.embedding, STORED["ema_codes"][i], 1e-6)
    close(book.usage, STORED["ema_usage"][i], 1e-6)


@pytest.fixture(scope="module")
def tokenizer():
  """Parameters and codebook."""
  return vqkd.from_original(original_state("vqkd"), TOKENIZER)


def test_the_tokenizer(tokenizer):
  """Three batches of training, with gradients, then one of evaluation."""
  params, book = tokenizer

  def loss(params, book, x, target, train):
    out = TOKENIZER.apply({"params": params}, x, book, train)
    total, parts = vq_kd_loss(out.features, target, out.quantized.loss)
    return total, (out, parts)

  train = jax.jit(lambda *args: jax.grad(loss, has_aux=True)(*args, True))
  evaluate = jax.jit(lambda *args: loss(*args, False))
  x = STORED["vqkd_x"] * 2 - 1
  for i, target in enumerate(STORED["vqkd_target"]):
    step = train if i < 3 else evaluate
    grads, (out, parts) = step(params, book, x[i], target)
    if i == 0:
      ours = vqkd.to_original(grads, book)
      names = [name for name in STORED if name.startswith("vqkd_grad_")]
      assert len(names) == 6
      for name in names:
        close(ours[name.removeprefix("vqkd_grad_")], STORED[name], 1e-4)
    book = out.codebook
    close(out.features, STORED["vqkd_rec"][i])
    indices = out.quantized.indices.reshape(2, -1)
    np.testing.assert_array_equal(indices, STORED["vqkd_tokens"][i])
    found = np.array([parts["rec"], parts["quant"]])
    close(found, STORED["vqkd_losses"][i])
    close(book.embedding, STORED["vqkd_codes"][i], 1e-6)
    close(book.usage, STORED["vqkd_usage"][i], 1e-6)


def test_files_of_the_tokenizer(tokenizer, tmp_path):
  """Key by key, with what a file of a training holds besides."""
  params, book = tokenizer
  state = original_state("vqkd")
  back = vqkd.to_original(params, book)
  dead = ("quantize.embedding.cluster_size", "quantize.embedding.embed_avg")
  for name in dead:
    assert back[name].shape == state[name].shape
  assert_equal(
    {k: v for k, v in back.items() if k not in dead},
    {k: v for k, v in state.items() if k not in dead},
  )
  extra = {
    "teacher_model.visual.proj": np.ones((2, 2), np.float32),
    "scaling_layer.shift": np.ones((1, 3, 1, 1), np.float32),
    "loss.x": np.ones(1, np.float32),
  }
  torch = pytest.importorskip("torch")
  tensors = {k: torch.from_numpy(v.copy()) for k, v in (back | extra).items()}
  torch.save({"model": tensors}, tmp_path / "vqkd.pth")
  network, again, codebook = vqkd.load(tmp_path / "vqkd.pth")
  # Heads are taken to have 64 channels.
  parts = [network.encoder, network.decoder]
  parts = [x.clone(backbone=x.backbone.clone(num_heads=4)) for x in parts]
  assert VQKD(*parts) == TOKENIZER
  jax.tree.map(np.testing.assert_array_equal, again, params)
  np.testing.assert_array_equal(codebook.embedding, book.embedding)
  assert codebook.started
  with pytest.raises(ValueError, match=r"unused: decoder\.extra"):
    vqkd.from_original(state | {"decoder.extra": np.ones(1)}, TOKENIZER)
  with pytest.raises(ValueError, match=r"no quantize\.embedding\.weight: not"):
    vqkd.from_original({}, TOKENIZER)
  with pytest.raises(
    ValueError, match=r"no encoder\.patch_embed\.proj\.weight"
  ):
    vqkd.described({})
  wide = TOKENIZER.clone(encoder=TOKENIZER.encoder.clone(features=9))
  with pytest.raises(ValueError, match=r"\(24, 8\) for \(24, 9\)"):
    vqkd.from_original(state, wide)


@pytest.mark.parametrize("name", ["shared", "separate"])
def test_patch_aggregation(name):
  backbone = Beit(8, 32, 3, 4, 128)
  network = PatchAggregationModel(backbone, 16, 2, 2, name == "shared")
  state = original_state(f"mim_{name}")
  params = beit.from_original(state, network, 32)
  out = jax.jit(network.apply)(
    {"params": params}, STORED["mim_x"], STORED["mim_mask"]
  )
  for found, want in zip(out, STORED[f"mim_{name}_out"], strict=True):
    close(found, want)
  assert_equal(beit.to_original(params), state)
  with pytest.raises(ValueError, match="transformers has no patch aggr"):
    beit.to_transformers(params)


def test_the_network_follows_from_a_released_file():
  """12 blocks, then two that aggregate: the patches are those of the 9th."""
  network = PatchAggregationModel(Beit(8, 32, 12, 4, 128), 16)
  x = jnp.zeros((1, 32, 32, 3))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  found, size = beit_files.network_of(beit.to_original(zeros))
  assert (found, size) == (network, 32)


def test_clip():
  state = original_state("clip")
  network = clip_vision.described(state)
  assert network == ClipVision(8, 128, 2, 2, 512, 12)
  params = clip_vision.from_original(state, network)
  found = jax.jit(network.apply)({"params": params}, STORED["teacher_x"])
  close(found.patches, STORED["clip_patches"])
  close(found.pooled, STORED["clip_pooled"])
  assert_equal(clip_vision.to_original(params), state)


def test_dino():
  """The biases of keys, which are not read, change nothing."""
  network = Dino(plain_vit(32, 2, 4, 128, 8))
  state = original_state("dino")
  backbone = dino.described(state).backbone
  assert Dino(backbone.clone(num_heads=4)) == network
  params = dino.from_original(state, network)
  found = jax.jit(network.apply)({"params": params}, STORED["teacher_x"])
  close(found.patches, STORED["dino_tokens"][:, 1:])
  close(found.pooled, STORED["dino_tokens"][:, 0])
  for name in state:
    if name.endswith("qkv.bias"):
      state[name][32:64] = 0
  assert_equal(dino.to_original(params), state)
  whole = {f"module.backbone.{name}": x for name, x in state.items()}
  head = {"module.head.mlp.0.weight": np.ones((2, 2), np.float32)}
  again = dino.from_original(whole | head, network)
  jax.tree.map(np.testing.assert_array_equal, again, params)
  odd = state | {"pos_embed": np.zeros((1, 16, 32), np.float32)}
  with pytest.raises(ValueError, match=r"square of patches .* \(1, 16, 32\)"):
    dino.from_original(odd, network)
  with pytest.raises(ValueError, match="no pos_embed: not DINO's"):
    dino.from_original({}, network)
  with pytest.raises(ValueError, match="no pos_embed: not a vision transf"):
    dino.described({})


def test_what_teachers_see():
  x = STORED["vqkd_x"][0] * 2 - 1
  for name, colours in (("clip", CLIP_COLOURS), ("imagenet", IMAGENET_COLOURS)):
    found = teacher_images(jnp.asarray(x), colours)[:, ::8, ::8]
    close(found, STORED[f"scaled_{name}"], 1e-6)


def test_layouts_of_pytorch(tokenizer):
  state, flat = original_state("vqkd"), flatten_dict(tokenizer[0])
  kernel = flat["encoder", "task_out", "kernel"]
  assert state["encode_task_layer.2.weight"][5, 3] == kernel[3, 5]
  patch = flat["decoder", "backbone", "patch_embed", "kernel"]
  assert (
    state["decoder.patch_embed.proj.weight"][7, 3, 0, 0] == patch[0, 0, 3, 7]
  )
  assert to_tensor(("table",), np.ones((2, 3))).shape == (2, 3)
