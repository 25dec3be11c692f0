"""Which axis of a parameter the mesh axis `tensor` splits.

Shoeybi et al. 2019, "Megatron-LM", section 3: the first layer of a branch is
split along its outputs and the last along its inputs, so that every device
works on its own heads or hidden channels and one sum per branch joins them.
"""

import re

# End of the parameter's path -> the axis that is split. A path is written as in
# "params/block_3/attn/qkv"; each pattern begins at a slash or at the start.
TENSOR_AXES = {
  # Blocks of jaxgen.nn.vit: BEiT, BEiT v2.
  r"attn/qkv": 1,
  r"attn/proj_out/kernel": 0,
  r"fc1/kernel": 1,
  r"fc1/bias": 0,
  r"fc2/kernel": 0,
  # Blocks of jaxgen.nn.multiway: BEiT-3, whose MLPs are named as above.
  r"attn/qkv_\w+/kernel": 1,
  r"attn/qkv_\w+/bias": 0,
  r"attn/out_\w+/kernel": 0,
  # Blocks of jaxgen.nn.spatial_transformer: latent diffusion, SD1.
  r"attn[12]/to_[qkv]/kernel": 1,
  r"attn[12]/to_out/kernel": 0,
  r"ff_in/kernel": 1,
  r"ff_in/bias": 0,
  r"ff_out/kernel": 0,
}


def tensor_axis(path: str) -> int | None:
  """The axis of a parameter that `tensor` splits; None if it does not.

  Args:
    path: names from the root of the tree to the parameter, joined by slashes.
  """
  for pattern, axis in TENSOR_AXES.items():
    if re.search(rf"(^|/){pattern}$", path):
      return axis
  return None
