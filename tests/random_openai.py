"""Small OpenAI networks, their random weights and inputs.

Shared by the parity test and by the script of tests/data/PROVENANCE.md that
runs the original code, whose options these are.
"""

import numpy as np

# Of 64 channels each group has several: alone in its group, a channel would
# lose what is added before the normalisation.
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
      "channel_mult": (1, 2, 3),
      "attention_resolutions": (2, 4),
      "num_heads": 4,
      "num_classes": 5,
      "use_scale_shift_norm": True,
    },
    (16, 8),
  ),
  "iddpm_lsun": (
    "improved",
    "UNetModel",
    UNET | {"channel_mult": (1, 1, 2), "attention_resolutions": (4,)},
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
  "adm_half": (
    "guided",
    "UNetModel",
    UNET
    | {
      "image_size": 16,
      "model_channels": 128,
      "channel_mult": (0.5, 1),
      "attention_resolutions": (2,),
      "num_head_channels": 32,
      "resblock_updown": True,
    },
    (16, 16),
  ),
  "adm_no_conv": (
    "guided",
    "UNetModel",
    UNET
    | {
      "image_size": 8,
      "channel_mult": (1, 2),
      "attention_resolutions": (2,),
      "conv_resample": False,
    },
    (8, 8),
  ),
  "adm_upsample": (
    "guided",
    "SuperResModel",
    UNET
    | {
      "image_size": 16,
      "channel_mult": (1, 2),
      "attention_resolutions": (2,),
      "num_head_channels": 16,
      "num_classes": 5,
      "use_scale_shift_norm": True,
      "resblock_updown": True,
    },
    (16, 24),
  ),
}
CLASSIFIER_CASES = {
  "attention": HALF
  | {
    "attention_resolutions": (1, 2),
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
  },
  "attention_new_order": HALF
  | {
    "attention_resolutions": (2,),
    "num_head_channels": 16,
    "use_new_attention_order": True,
    "pool": "attention",
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
  options["pool"] = pool.removesuffix("_new_order")


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
