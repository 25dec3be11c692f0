"""Small OpenAI networks, their random weights and inputs.

Shared by the tests and by the script of tests/data/PROVENANCE.md that runs the
original code, whose options these are.
"""

import numpy as np

# 64 channels make groups of two: alone in its group, a channel would lose what
# is added to it before the normalisation.
SHARED = {"in_channels": 3, "model_channels": 64}
UNET = SHARED | {"out_channels": 6, "num_res_blocks": 1}
HALF = SHARED | {
  "image_size": 16,
  "out_channels": 10,
  "num_res_blocks": 1,
  "channel_mult": (1, 2),
}

# name: (repository, class, its options, image height and width)
CASES = {
  "iddpm_cond": (
    "improved",
    "UNetModel",
    UNET
    | {
      "num_res_blocks": 2,
      "channel_mult": (1, 3),
      "attention_resolutions": (1, 2),
      "num_heads": 4,
      "num_classes": 5,
      "use_scale_shift_norm": True,
    },
    (16, 8),
  ),
  "iddpm_lsun": (
    "improved",
    "UNetModel",
    UNET | {"channel_mult": (1, 2), "attention_resolutions": (2,)},
    (16, 16),
  ),
  "iddpm_upsample": (
    "improved",
    "SuperResModel",
    UNET
    | {
      "channel_mult": (1, 2),
      "attention_resolutions": (1, 2),
      "num_heads": 4,
      "num_heads_upsample": 2,
      "num_classes": 5,
      "use_scale_shift_norm": True,
    },
    (8, 8),
  ),
  "adm_new_order": (
    "guided",
    "UNetModel",
    UNET
    | {
      "image_size": 16,
      "channel_mult": (1, 2),
      "attention_resolutions": (2,),
      "num_head_channels": 16,
      "num_classes": 5,
      "use_scale_shift_norm": True,
      "resblock_updown": True,
      "use_new_attention_order": True,
    },
    (16, 16),
  ),
  "adm_heads": (
    "guided",
    "UNetModel",
    UNET
    | {
      "image_size": 8,
      "channel_mult": (1, 2),
      "attention_resolutions": (1, 2),
      "num_heads": 4,
      "num_heads_upsample": 2,
      "use_scale_shift_norm": True,
      "resblock_updown": True,
    },
    (8, 16),
  ),
  "adm_half_upsample": (
    "guided",
    "SuperResModel",
    UNET
    | {
      "image_size": 16,
      "model_channels": 128,
      "channel_mult": (0.5, 1),
      "attention_resolutions": (2,),
      "num_head_channels": 32,
      "num_classes": 5,
      "resblock_updown": True,
    },
    (16, 24),
  ),
  "adm_no_conv": (
    "guided",
    "UNetModel",
    UNET
    | {
      "image_size": 8,
      "channel_mult": (1, 1, 2),
      "attention_resolutions": (4,),
      "conv_resample": False,
    },
    (8, 8),
  ),
}
GRADIENT_CASES = ("adm_new_order",)
CLASSIFIER_CASES = {
  "attention": HALF
  | {
    "attention_resolutions": (2,),
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
  },
  "adaptive": HALF
  | {"attention_resolutions": (2,), "num_heads": 2, "conv_resample": False},
  "spatial": HALF | {"attention_resolutions": (2,), "num_heads": 4},
  "spatial_v2": HALF
  | {
    "attention_resolutions": (2,),
    "num_heads": 4,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
  },
}
for pool, options in CLASSIFIER_CASES.items():
  options["pool"] = pool


RENAMED = {
  "model_channels": "channels",
  "use_scale_shift_norm": "scale_shift_norm",
  "use_new_attention_order": "new_attention_order",
}
# What the original leaves out of an options' dictionary.
DEFAULTS = {"num_heads": 1, "scale_shift_norm": False, "resblock_updown": False}


def twin(name):
  """Our network of a case."""
  from jaxgen.nn.openai_classifier import Classifier
  from jaxgen.nn.openai_unet import UNet

  if name in CASES:
    _, kind, options, (height, _) = CASES[name]
  else:
    kind, options, height = "EncoderUNetModel", CLASSIFIER_CASES[name], 16
  ours = DEFAULTS | {RENAMED.get(k, k): v for k, v in options.items()}
  del ours["in_channels"]
  ours.pop("image_size", None)
  ours["attention_resolutions"] = tuple(
    height // rate for rate in options["attention_resolutions"]
  )
  if name in CASES:
    return UNet(super_resolution=kind == "SuperResModel", **ours)
  ours["num_classes"] = ours.pop("out_channels")
  return Classifier(**{"num_head_channels": None} | ours)


def random_state(shapes, seed=0):
  """Tensor name -> float32 array, from tensor name -> shape in PyTorch.

  Drawn in the alphabetical order of the names, no layer being zero.
  """
  rng = np.random.RandomState(seed)  # its stream is frozen for ever
  state = {}
  for name in sorted(shapes):
    shape = tuple(shapes[name])
    x = rng.standard_normal(shape)
    if name == "label_emb.weight" or name.endswith("positional_embedding"):
      x *= 0.5
    elif len(shape) > 1:  # about the variance of the input
      x /= np.sqrt(np.prod(shape[1:]))
    else:
      x = 0.2 * x + name.endswith("weight")  # only norms have vectors as weight
    if name.startswith("input_blocks.0."):
      x *= 0.01  # so that the epsilon of the first normalisation shows
    state[name] = x.astype(np.float32)
  return state


def random_inputs(size, seed=1):
  """Images `[2, H, W, 3]`, times, labels, images a third as large, a target."""
  rng = np.random.RandomState(seed)
  x, target = rng.standard_normal((2, 2, *size, 3)).astype(np.float32)
  small = [length // 3 for length in size]
  low_res = rng.standard_normal((2, *small, 3)).astype(np.float32)
  return {
    "x": x,
    "t": np.array([7.25, 984.0], np.float32),
    "y": np.array([3, 1]),
    "low_res": low_res,
    "target": target,
  }


def quick_jit(f, **kwargs):
  """jax.jit without most optimisations: compiling is what takes time here."""
  options = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
  }
  import jax

  return jax.jit(f, compiler_options=options, **kwargs)
