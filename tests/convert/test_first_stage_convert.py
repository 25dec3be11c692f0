import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from seeded_weights import seeded_state

from jaxgen.convert import (
  discriminator,
  first_stage,
  first_stage_folders,
  lpips,
)
from jaxgen.convert.state import write_safetensors
from jaxgen.nn.autoencoder import AutoencoderKL, VQAutoencoder
from jaxgen.nn.discriminators import NLayerDiscriminator

STORED = np.load(Path(__file__).parents[1] / "data/first_stage.npz")
KL = AutoencoderKL(
  4,
  (1, 2),
  attention_resolutions=(16,),
  resolution=32,
  channels=32,
  num_res_blocks=1,
)
VQ = VQAutoencoder(
  20, 3, (1, 2), mid_attention=False, channels=32, num_res_blocks=1
)
CASES = {"kl": KL, "vq": VQ}


@functools.cache
def original_state(name):
  """The original's tensors, those that only training has among them."""
  shapes = json.loads(str(STORED[f"{name}_shapes"]))
  return {
    k: np.zeros(shape, np.int64) if "tracked" in k else np.asarray(x)
    for (k, shape), x in zip(
      shapes.items(), seeded_state(shapes, 0).values(), strict=True
    )
  }


def of_the_network(state):
  return {k: x for k, x in state.items() if not k.startswith("loss.")}


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", CASES)
def test_original_tensors_go_both_ways(name):
  """Names and shapes are the original's; training's tensors are left out."""
  state, network = original_state(name), CASES[name]
  assert len(of_the_network(state)) < len(state)
  params = first_stage.from_original(state, network)
  assert_equal(first_stage.to_original(params, network), of_the_network(state))
  within = {
    f"first_stage_model.{k}": x for k, x in of_the_network(state).items()
  }
  within["model.diffusion_model.out.2.bias"] = np.zeros(4, np.float32)
  assert_equal(first_stage.from_original(within, network), params)


@pytest.mark.parametrize("name", CASES)
def test_layouts_go_into_each_other(name):
  state, network = of_the_network(original_state(name)), CASES[name]
  params = first_stage.from_original(state, network)
  theirs = first_stage.to_diffusers(params, network)
  assert_equal(first_stage.from_diffusers(theirs, network), params)
  if name == "kl":
    old = {
      k.replace("to_out.0", "proj_attn")
      .replace("to_q", "query")
      .replace("to_k", "key")
      .replace("to_v", "value"): x
      for k, x in theirs.items()
    }
    assert old.keys() != theirs.keys()
    assert_equal(first_stage.from_diffusers(old, network), params)


def test_layouts_of_pytorch():
  state = original_state("kl")
  params = first_stage.from_original(state, KL)
  kernel = params["encoder"]["conv_in"]["kernel"]  # HWIO
  assert state["encoder.conv_in.weight"][5, 2, 0, 1] == kernel[0, 1, 2, 5]
  q = params["decoder"]["mid_attn_1"]["q"]["kernel"]
  assert state["decoder.mid.attn_1.q.weight"][9, 4, 0, 0] == q[4, 9]
  state = original_state("vq")
  params = first_stage.from_original(state, VQ)
  np.testing.assert_array_equal(
    params["quantizer"]["embedding"], state["quantize.embedding.weight"]
  )


def test_files(tmp_path):
  state = original_state("kl")
  params = first_stage.from_original(state, KL)
  state = {k: x for k, x in state.items() if ".net." not in k}
  floats = {k: x for k, x in state.items() if x.dtype == np.float32}
  write_safetensors(tmp_path / "kl.safetensors", floats)
  assert_equal(first_stage.load(tmp_path / "kl.safetensors", KL), params)
  theirs = first_stage.to_diffusers(params, KL)
  write_safetensors(tmp_path / "vae.safetensors", theirs)
  assert_equal(first_stage.load(tmp_path / "vae.safetensors", KL), params)

  torch = pytest.importorskip("torch")
  tensors = {k: torch.from_numpy(x.copy()) for k, x in state.items()}
  torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "model.ckpt")
  assert_equal(first_stage.load(tmp_path / "model.ckpt", KL), params)


def test_faults_name_the_tensors():
  state = of_the_network(original_state("kl"))
  less = {k: v for k, v in state.items() if "decoder.mid.block_2" not in k}
  with pytest.raises(ValueError, match=r"missing: decoder\.mid.* and 5 more"):
    first_stage.from_original(less, KL)
  for name in (
    "loss.discriminator.main.12.weight",
    "loss.perceptual_loss.net.slice1.1.weight",
    "loss.other",
    "model_ema.decay",
  ):
    with pytest.raises(ValueError, match=f"unused: {name}"):
      first_stage.from_original(state | {name: np.ones(1)}, KL)
  vq = of_the_network(original_state("vq"))
  with pytest.raises(ValueError, match=r"unused: loss\.logvar\.$"):
    first_stage.from_original(vq | {"loss.logvar": np.ones(())}, VQ)
  with pytest.raises(ValueError, match=r"weight \(20, 3\)|weight \(3, 20\)"):
    first_stage.from_original(vq, VQ.clone(num_codes=21))
  with pytest.raises(ValueError, match=r"levels \[1\], the network at \[\]"):
    first_stage.from_original(state, KL.clone(attention_resolutions=()))
  with pytest.raises(ValueError, match="not a first stage"):
    first_stage.from_original({"x": np.ones(1)}, KL)
  theirs = first_stage.to_diffusers(first_stage.from_original(state, KL), KL)
  with pytest.raises(ValueError, match=r"begin with 1, got \(2, 2\)"):
    first_stage.to_diffusers({}, KL.clone(channel_mult=(2, 2)))
  with pytest.raises(ValueError, match=r"unused: loss\.logvar\.$"):
    first_stage.from_diffusers(theirs | {"loss.logvar": np.ones(())}, KL)


def test_discriminator_goes_both_ways():
  state = original_state("kl")
  network = NLayerDiscriminator(num_layers=2)
  variables = discriminator.from_original(state, network)
  own = {
    k.removeprefix("loss.discriminator."): x
    for k, x in state.items()
    if "discriminator" in k and "tracked" not in k
  }
  assert_equal(discriminator.to_original(variables), own)
  assert_equal(discriminator.from_original(own, network), variables)
  with pytest.raises(ValueError, match=r"missing: main\.11\.bias.*unused: ma"):
    discriminator.from_original(own, network.clone(num_layers=3))


def test_lpips_files(tmp_path):
  own = {
    k.removeprefix("loss.perceptual_loss."): x
    for k, x in original_state("kl").items()
    if "perceptual_loss" in k
  }
  params = lpips.from_original(own)
  # torchvision numbers one list, which the original cuts into five.
  vgg = {
    ".".join(["features", *k.split(".")[2:]]): x
    for k, x in own.items()
    if k.startswith("net.")
  }
  distance = {k: x for k, x in own.items() if k.startswith("lin")}
  assert vgg.keys() >= {"features.0.weight", "features.28.bias"}
  assert (len(vgg), len(distance)) == (26, 5)
  assert_equal(lpips.to_torchvision(params), (vgg, distance))

  classifier = {"classifier.6.bias": np.zeros(1000, np.float32)}
  write_safetensors(tmp_path / "vgg16.safetensors", vgg | classifier)
  write_safetensors(tmp_path / "lin.safetensors", distance)
  loaded = lpips.load(
    tmp_path / "vgg16.safetensors", tmp_path / "lin.safetensors"
  )
  assert_equal(loaded, params)
  with pytest.raises(ValueError, match=r"unused: features\.30\.weight"):
    lpips.from_torchvision(vgg | {"features.30.weight": np.ones(1)}, distance)
  with pytest.raises(ValueError, match=r"missing: lin0\.model\.1\.weight, "):
    lpips.from_torchvision(vgg, {})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"_class_name": "UNet2DModel"}, "describes UNet2DModel, not Autoenc"),
    ({"act_fn": "relu"}, "has act_fn 'relu', but .* needs 'silu'"),
    ({"use_quant_conv": False}, "use_quant_conv False, but .* needs True"),
    ({"shift_factor": 0.1}, "shift_factor 0.1, but .* needs None"),
    ({"down_block_types": ["DownBlock2D"] * 2}, "got DownBlock2D"),
    ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "other blocks on the way"),
    ({"block_out_channels": [32, 48]}, r"widths \[32, 48\] that are no mult"),
    ({"layers_per_block": None}, "does not say 'layers_per_block'"),
  ],
)
def test_other_configurations_are_one_sentence(tmp_path, change, message):
  params = first_stage.from_original(original_state("kl"), KL)
  first_stage_folders.save(tmp_path, params, KL, 0.18215)
  path = tmp_path / "config.json"
  config = json.loads(path.read_text()) | change
  config = {k: x for k, x in config.items() if k not in change or x is not None}
  path.write_text(json.dumps(config))
  with pytest.raises(ValueError, match=message):
    first_stage_folders.load(tmp_path)


def test_absent_and_broken_folders(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"There is no file .*config"):
    first_stage_folders.load(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="is not JSON"):
    first_stage_folders.load(tmp_path)
