"""Random weights of FID's Inception, the same in every version of numpy."""

import numpy as np


def random_state(shapes, seed=0):
  """Tensor name -> float32 array, from tensor name -> shape in PyTorch.

  Drawn in the alphabetical order of the names; statistics and scales of the
  batch normalisations are random too.
  """
  rng = np.random.RandomState(seed)  # its stream is frozen for ever
  state = {}
  for name in sorted(shapes):
    shape = shapes[name]
    x = rng.standard_normal(shape)
    if len(shape) > 1:
      x *= np.sqrt((2 if len(shape) == 4 else 1) / np.prod(shape[1:]))
    elif name.endswith("running_var"):
      x = 0.5 + np.abs(x)
    elif name.endswith("bn.weight"):
      x = 1 + 0.2 * x
    else:
      x *= 0.2
    state[name] = x.astype(np.float32)
  return state


def inception_state():
  """`random_state` of the whole network, its names and shapes being ours."""
  import jax

  from jaxgen.convert.inception import to_state
  from jaxgen.nn.inception import Inception

  x = np.zeros((1, 75, 75, 3), np.float32)
  shapes = jax.eval_shape(Inception().init, jax.random.key(0), x)["params"]
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(0, leaf.shape), shapes)
  return random_state({name: x.shape for name, x in to_state(zeros).items()})


def random_images(shape, seed):
  """uint8 images."""
  rng = np.random.RandomState(seed)
  return rng.randint(0, 256, shape).astype(np.uint8)


def random_textures(n=(20, 14), size=40):
  """Two sets of smooth uint8 images `[n, size, size, 3]`, unlike each other."""
  rng = np.random.RandomState(5)
  y, x = np.mgrid[:size, :size] / size
  sets = []
  for count, frequency in zip(n, (3, 6), strict=True):
    images = []
    for _ in range(count):
      a, b, c = rng.standard_normal((3, 3)) * frequency
      wave = np.sin(a * x[..., None] * 6 + b * y[..., None] * 6 + c)
      images.append((127.5 + 127 * wave).astype(np.uint8))
    sets.append(np.stack(images))
  return sets
