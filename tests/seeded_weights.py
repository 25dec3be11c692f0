"""Random weights that a name and a shape determine.

Arrays from original code are stored without the weights they were made with:
the script that made them and the test that reads them draw the same ones.
"""

import zlib

import numpy as np


def seeded_weight(name, shape, output_axis):
  """A tensor of about unit gain, no entry zero; norm scales are about 1."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  noise = rng.standard_normal(shape, dtype=np.float32)
  leaf = name.replace("/", ".").rsplit(".", 1)[-1]
  if len(shape) == 1 and leaf == "W":  # Fourier frequencies
    return 16 * noise
  if "embed" in name:  # scales and shifts of conditional normalisation
    return np.float32(0.5) + np.float32(0.5) * noise
  if len(shape) > 1:
    fan_in = np.prod(shape) / shape[output_axis]
    return noise / np.float32(np.sqrt(fan_in))
  is_scale = leaf in ("alpha", "gamma", "scale")
  is_scale |= leaf == "weight" and "norm" in name.lower()
  return np.float32(0.2) * noise + np.float32(is_scale)


def seeded_state(shapes, output_axis):
  """Tensors by name, `shapes` being their shapes by name.

  Args:
    shapes: name -> shape.
    output_axis: of a kernel's output channels, 0 in PyTorch and -1 in Flax.
  """
  return {
    name: seeded_weight(name, tuple(shape), output_axis)
    for name, shape in shapes.items()
  }
