"""UPerNet on BEiT against transformers' trunk and heads."""

import jax
import numpy as np
import pytest

from jaxgen.convert import beit_segmentation
from jaxgen.convert.state import read_safetensors
from jaxgen.nn.beit import Beit
from jaxgen.nn.segmentation import Segmenter
from jaxgen.nn.setr import UpsamplingHead
from jaxgen.training.segmentation_losses import segmentation_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
  "hidden_size": 32,
  "num_hidden_layers": 4,
  "num_attention_heads": 2,
  "intermediate_size": 64,
  "image_size": 64,
  "patch_size": 8,
  "layer_norm_eps": 1e-6,
  "use_relative_position_bias": True,
  "drop_path_rate": 0.0,
}


def randomised(model):
  generator = torch.Generator().manual_seed(0)
  draw = lambda x: torch.randn(x.shape, generator=generator)
  with torch.no_grad():
    for p in model.parameters():
      p.copy_(0.2 * draw(p))
    for name, buffer in model.named_buffers():
      if name.endswith("running_mean"):
        buffer.copy_(0.2 * draw(buffer))
      elif name.endswith("running_var"):
        buffer.copy_(draw(buffer) ** 2 + 0.5)
  return model.eval()


def close(found, want):
  want = want.detach().permute(0, 2, 3, 1).numpy()
  error = np.linalg.norm(found - want) / np.linalg.norm(want)
  assert error < 1e-5, error


def test_segmenter(tmp_path):
  """The whole model's file; its trunk through the backbone class, which takes
  the outputs of the right blocks, then its heads."""
  config = transformers.BeitConfig(
    **SIZES, num_labels=5, out_indices=[1, 2, 3, 4]
  )
  model = randomised(transformers.BeitForSemanticSegmentation(config))
  model.save_pretrained(tmp_path)
  state = read_safetensors(tmp_path / "model.safetensors")
  backbone = Beit(
    8, 32, 4, 2, 64, relative_positions="per_block", mask_token=False
  )
  network = Segmenter(backbone, 5, levels=(0, 1, 2, 3))
  variables = beit_segmentation.from_transformers(state, network, 64)

  back = beit_segmentation.to_transformers(variables)
  kept = {k for k in state if not k.endswith("num_batches_tracked")}
  assert set(back) == kept
  for name in kept:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)
  released = beit_segmentation.to_original(variables)
  again = beit_segmentation.from_original(released, network, 64)
  jax.tree.map(np.testing.assert_array_equal, again, variables)
  assert "backbone.fpn1.1.running_var" in released
  assert released["decode_head.conv_seg.weight"].shape == (5, 32, 1, 1)

  x = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
  pixels = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
  config = transformers.BeitConfig(
    **SIZES, out_features=[f"stage{i}" for i in (1, 2, 3, 4)], add_fpn=True
  )
  trunk = transformers.BeitBackbone(config).eval()
  theirs = model.state_dict()
  trunk.load_state_dict(
    {name: theirs[name] for name in trunk.state_dict()}, strict=True
  )
  maps = list(trunk(pixels).feature_maps)
  logits, auxiliary = jax.jit(network.apply)(variables, x)
  close(logits, model.decode_head(maps))
  close(auxiliary, model.auxiliary_head(maps))


def test_loss():
  """Resized, summed over labelled pixels, divided by the number of all."""
  rng = np.random.default_rng(0)
  main = rng.standard_normal((2, 6, 4, 5), np.float32)
  other = rng.standard_normal((2, 3, 2, 5), np.float32)
  labels = rng.integers(0, 5, (2, 24, 16)).astype(np.uint8)
  labels[:, :9] = 255

  def theirs(logits):
    x = torch.nn.functional.interpolate(
      torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()),
      size=(24, 16),
      mode="bilinear",
      align_corners=False,
    )
    losses = torch.nn.functional.cross_entropy(
      x, torch.from_numpy(labels).long(), reduction="none", ignore_index=255
    )
    right = (x.argmax(1).numpy() == labels)[labels != 255].mean()
    return float(losses.mean()), right

  loss, metrics = jax.jit(segmentation_loss)(main, other, labels, 0.4)
  want, want_other = theirs(main), theirs(other)
  np.testing.assert_allclose(loss, want[0] + 0.4 * want_other[0], rtol=1e-5)
  found = [metrics["main"], metrics["accuracy"]]
  np.testing.assert_allclose(found, want, rtol=1e-5)
  found = [metrics["auxiliary"], metrics["auxiliary_accuracy"]]
  np.testing.assert_allclose(found, want_other, rtol=1e-5)


def setr_head(channels, width, classes, scales):
  """SETR's head by torch's layers, named as mmsegmentation names them."""
  layers = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(channels, 1e-6)})
  for i in range(len(scales)):
    layers[f"conv{i}"] = torch.nn.Conv2d(
      width if i else channels, width, 3, padding=1, bias=False
    )
    layers[f"bn{i}"] = torch.nn.BatchNorm2d(width)
  layers["conv_seg"] = torch.nn.Conv2d(width, classes, 1)
  layers = randomised(layers)

  def forward(x):
    x = layers["norm"](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    for i, scale in enumerate(scales):
      x = torch.relu(layers[f"bn{i}"](layers[f"conv{i}"](x)))
      x = torch.nn.functional.interpolate(
        x, scale_factor=scale, mode="bilinear", align_corners=False
      )
    return layers["conv_seg"](x)

  return layers, forward


@pytest.mark.parametrize("scales", [(2, 2, 2), (4, 2)])
def test_setr_pup(scales):
  layers, forward = setr_head(12, 8, 5, scales)
  array = lambda tensor: tensor.detach().numpy()
  kernel = lambda name: array(layers[name].weight).transpose(2, 3, 1, 0)
  affine = lambda m: {"scale": array(m.weight), "bias": array(m.bias)}
  params, stats = {"norm": affine(layers["norm"])}, {}
  for i in range(len(scales)):
    bn = layers[f"bn{i}"]
    params[f"up_{i}"] = {"kernel": kernel(f"conv{i}"), "bn": affine(bn)}
    mean, var = array(bn.running_mean), array(bn.running_var)
    stats[f"up_{i}"] = {"bn": {"mean": mean, "var": var}}
  params["classifier"] = {
    "kernel": kernel("conv_seg")[0, 0],
    "bias": array(layers["conv_seg"].bias),
  }
  x = np.random.default_rng(0).standard_normal((2, 5, 4, 12), np.float32)
  head = UpsamplingHead(5, scales, channels=8)
  variables = {"params": params, "batch_stats": stats}
  found = jax.jit(lambda v, x: head.apply(v, x, False))(variables, x)
  close(found, forward(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())))
