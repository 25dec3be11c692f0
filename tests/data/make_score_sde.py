"""Writes score_sde_torch.npz and score_sde_flax.npz from the original code.

    export PYTHONPATH=tests
    python tests/data/make_score_sde.py torch CHECKOUT   # score_sde_pytorch
    python tests/data/make_score_sde.py flax CHECKOUT    # score_sde

CHECKOUT is a clone at the commit in PROVENANCE.md. The first needs torch, the
second jax and flax. Compiled operators and imports that the networks do not
need are replaced by stand-ins, the networks' code runs as it is.
"""

import contextlib
import json
import sys
import types
from pathlib import Path

import numpy as np
from seeded_weights import seeded_state

FOLDER = Path(__file__).parent
TINY = {
  "nf": 16,
  "ch_mult": (1, 2),
  "num_res_blocks": 1,
  "attn_resolutions": (8,),
  "dropout": 0.1,
  "resamp_with_conv": True,
  "conditional": True,
  "fir": True,
  "fir_kernel": (1, 3, 3, 1),
  "skip_rescale": True,
  "resblock_type": "biggan",
  "progressive": "none",
  "progressive_input": "residual",
  "progressive_combine": "sum",
  "embedding_type": "fourier",
  "fourier_scale": 16,
  "init_scale": 0.0,
  "scale_by_sigma": True,
  "sigma_min": 0.01,
  "sigma_max": 50.0,
  "num_scales": 100,
  "nonlinearity": "swish",
  "normalization": "GroupNorm",
  "name": "ncsnpp",
  "centered": False,
  "image_size": 16,
}
VP = {"embedding_type": "positional", "centered": True, "scale_by_sigma": False}
DDPM = VP | {
  "name": "ddpm",
  "nf": 128,
  "ch_mult": (1, 1),
  "image_size": 8,
  "attn_resolutions": (4,),
}
SKIPS = {"progressive": "output_skip", "progressive_input": "input_skip"}

# The original code's options that differ from TINY. The PyTorch code can
# double neither without a filter nor by a filtered convolution; JAX's can.
TORCH_CASES = {
  "ve": {"num_res_blocks": 2},
  "ve_discrete": {"embedding_type": "positional", "fir_kernel": (1, 4, 2, 1)},
  "ve_256": SKIPS | {"ch_mult": (1, 2, 2)},
  "vp_ddpmpp": VP | {"fir": False, "progressive_input": "none"},
  "cat": VP | SKIPS | {"progressive_combine": "cat"},
  "ddpm_blocks_fir": {
    "embedding_type": "positional",
    "resblock_type": "ddpm",
    "resamp_with_conv": False,
    "skip_rescale": False,
  },
  "ve_ddpm": DDPM | {"centered": False, "scale_by_sigma": True},
}
FLAX_CASES = {
  "ve_256": TORCH_CASES["ve_256"],
  "fir_up": {"progressive": "residual"},
  "ddpm_blocks": {
    "resblock_type": "ddpm",
    "fir": False,
    "skip_rescale": False,
    "progressive": "residual",
    "init_scale": 0.5,
  },
  "ddpm_blocks_mean": {
    "resblock_type": "ddpm",
    "fir": False,
    "resamp_with_conv": False,
    "progressive_input": "none",
  },
  "ddpm_blocks_fir_conv": SKIPS | {"resblock_type": "ddpm"},
  "ddpm_unconditional": DDPM | {"conditional": False},
}


def config_of(options):
  """The nested configuration that the original code reads."""
  values = TINY | options
  model = types.SimpleNamespace(**values)
  data = types.SimpleNamespace(
    image_size=values["image_size"],
    num_channels=3,
    centered=values["centered"],
  )
  training = types.SimpleNamespace(continuous=True)
  return types.SimpleNamespace(model=model, data=data, training=training)


def inputs_of(options):
  """A batch of two and its noise levels or labels."""
  values = TINY | options
  rng = np.random.default_rng(0)
  size = values["image_size"]
  x = rng.standard_normal((2, size, size, 3), dtype=np.float32)
  if values["embedding_type"] == "fourier":
    return x, np.array([0.02, 7.0], np.float32)
  if values["scale_by_sigma"]:
    return x, np.array([3, 97], np.int64)
  if values["name"] == "ddpm":
    return x, np.array([3, 97], np.int64)
  return x, np.array([0.5, 97.25], np.float32)


def stand_in(name, **attributes):
  """A module of that name that holds nothing else."""
  module = types.ModuleType(name)
  vars(module).update(attributes)
  sys.modules[name] = module
  return module


def main_torch(checkout):
  import torch
  import torch.utils.cpp_extension

  # On a CPU the operators are written in Python; nothing is compiled.
  torch.utils.cpp_extension.load = lambda *args, **kwargs: None
  sys.path.insert(0, checkout)
  from models import ddpm, ncsnpp, up_or_down_sampling

  arrays = {}
  for case, options in TORCH_CASES.items():
    torch.manual_seed(0)
    config = config_of(options)
    kind = ddpm.DDPM if config.model.name == "ddpm" else ncsnpp.NCSNpp
    network = kind(config).eval()
    state = network.state_dict()
    shapes = {k: list(v.shape) for k, v in state.items() if k != "sigmas"}
    weights = seeded_state(shapes, output_axis=0)
    network.load_state_dict(
      {k: torch.from_numpy(v) for k, v in weights.items()}, strict=False
    )
    x, time_cond = inputs_of(options)
    with torch.no_grad():
      y = network(
        torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(time_cond)
      )
    arrays |= {
      f"{case}/x": x,
      f"{case}/time_cond": time_cond,
      f"{case}/output": y.permute(0, 2, 3, 1).numpy(),
      f"{case}/shapes": np.array(json.dumps(shapes)),
      f"{case}/count": np.array(sum(p.numel() for p in network.parameters())),
      f"{case}/sigmas": state["sigmas"].numpy(),
      f"{case}/trained": np.array(
        json.dumps(
          [k for k, p in network.named_parameters() if p.requires_grad]
        )
      ),
    }
  arrays |= resampling_arrays(torch, up_or_down_sampling)
  write("score_sde_torch.npz", arrays)


def resampling_arrays(torch, original):
  """Outputs of the operators of NVlabs/stylegan2 as ported there."""
  from op.upfirdn2d import upfirdn2d_native

  rng = np.random.default_rng(1)
  x = rng.standard_normal((2, 6, 8, 3), dtype=np.float32)
  kernel = rng.standard_normal((3, 3, 3, 5), dtype=np.float32)
  nchw = torch.from_numpy(x).permute(0, 3, 1, 2)
  arrays = {"fir/x": x, "fir/kernel": kernel}

  def keep(name, y):
    arrays[f"fir/{name}"] = y.permute(0, 2, 3, 1).numpy()

  for taps, up, down, pad in (
    ((1, 3, 3, 1), 2, 1, (2, 1)),
    ((1, 3, 3, 1), 1, 2, (1, 1)),
    ((2, 5, 1), 2, 3, (3, 0)),
    ((2, 5, 1, -1), 1, 1, (-1, 2)),
    ((1, 2), 3, 2, (0, -2)),
  ):
    square = torch.from_numpy(np.outer(taps, taps).astype(np.float32))
    keep(
      f"upfirdn {json.dumps([taps, up, down, pad])}",
      upfirdn2d_native(nchw, square, up, up, down, down, *pad, *pad),
    )
  w = torch.from_numpy(kernel).permute(3, 2, 0, 1)
  for taps in ((1, 3, 3, 1), (1, 1), (1, 2, 1), (1, 4, 2, 1, 3)):
    name = json.dumps(taps)
    keep(f"upsample {name}", original.upsample_2d(nchw, taps))
    keep(f"downsample {name}", original.downsample_2d(nchw, taps))
    y = original.conv_downsample_2d(nchw, w, k=taps)
    keep(f"downsample_conv {name}", y)
  keep("nearest", original.naive_upsample_2d(nchw))
  keep("mean", original.naive_downsample_2d(nchw))
  return arrays


def main_flax(checkout):
  import flax
  import flax.training.checkpoints  # before TensorFlow's stand-in
  import jax

  flax.optim = stand_in("flax.optim", Optimizer=object)
  stand_in("ml_collections", ConfigDict=object)
  stand_in("tensorflow")
  for name in ("PIL", "PIL.Image"):
    with contextlib.suppress(ImportError):
      __import__(name)
    sys.modules.setdefault(name, types.ModuleType(name))
  sys.modules["PIL"].Image = sys.modules["PIL.Image"]
  sys.path.insert(0, checkout)
  from models import ddpm, ncsnpp, up_or_down_sampling

  arrays = {}
  for case, options in FLAX_CASES.items():
    config = config_of(options)
    kind = ddpm.DDPM if config.model.name == "ddpm" else ncsnpp.NCSNpp
    network = kind(config)
    x, time_cond = inputs_of(options)
    with jax.default_matmul_precision("highest"):
      variables = network.init(jax.random.key(0), x, time_cond, train=False)
      flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
      shapes = {name: leaf.shape for name, leaf in flat.items()}
      weights = seeded_state(shapes, output_axis=-1)
      params = flax.traverse_util.unflatten_dict(weights, sep="/")
      y = network.apply({"params": params}, x, time_cond, train=False)
    arrays |= {
      f"{case}/x": x,
      f"{case}/time_cond": time_cond,
      f"{case}/output": np.asarray(y),
      f"{case}/shapes": np.array(json.dumps(shapes)),
      f"{case}/initial_max": np.array(
        [np.abs(leaf).max() for leaf in flat.values()]
      ),
    }
  arrays |= classifier_arrays()
  torch_arrays = np.load(FOLDER / "score_sde_torch.npz")
  x, kernel = torch_arrays["fir/x"], torch_arrays["fir/kernel"]
  for taps in ((1, 3, 3, 1), (1, 1), (1, 2, 1), (1, 4, 2, 1, 3)):
    y = up_or_down_sampling.upsample_conv_2d(x, kernel, k=taps)
    arrays[f"fir/upsample_conv {json.dumps(taps)}"] = np.asarray(y)
  write("score_sde_flax.npz", arrays)


def classifier_arrays():
  """Logits and their gradient of a small noise-conditional classifier."""
  import flax
  import jax
  from models import utils
  from models.wideresnet_noise_conditional import WideResnet

  network = WideResnet(blocks_per_group=2, channel_multiplier=2, num_outputs=10)
  x = np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)
  sigma, labels = np.array([0.05, 2.0], np.float32), np.array([3, 8])
  variables = network.init(jax.random.key(0), x, sigma, train=False)
  flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
  shapes = {name: leaf.shape for name, leaf in flat.items()}
  params = flax.traverse_util.unflatten_dict(
    seeded_state(shapes, output_axis=-1), sep="/"
  )
  with jax.default_matmul_precision("highest"):
    logits = utils.get_logit_fn(network, params)
    gradient = utils.get_classifier_grad_fn(logits)(x, sigma, labels)
    arrays = {"output": logits(x, sigma), "gradient": gradient}
  arrays |= {
    "x": x,
    "sigma": sigma,
    "labels": labels,
    "shapes": json.dumps(shapes),
    "initial_std": np.array([leaf.std() for leaf in flat.values()]),
  }
  return {f"classifier/{k}": np.asarray(v) for k, v in arrays.items()}


def write(name, arrays):
  np.savez_compressed(FOLDER / name, **arrays)
  print(f"{name}: {(FOLDER / name).stat().st_size:,} bytes")


if __name__ == "__main__":
  framework, checkout = sys.argv[1:]
  {"torch": main_torch, "flax": main_flax}[framework](checkout)
