"""What a discrete autoencoder is trained on."""

from functools import partial
from typing import Any

import numpy as np

from experiments.dvae.config import Config
from experiments.fitting import image_batches
from jaxgen import data
from jaxgen.data.optional import optional


def batches(config: Config) -> Any:
  """The stream of images that a configuration names."""
  if config.crop == "center":
    return image_batches(config)
  return data.train_batches(
    data.load(config.dataset, config.split, config.data_dir or None),
    config.batch_size,
    config.image_size,
    config.seed,
    transform=partial(random_view, size=config.image_size, flip=config.flip),
    num_workers=config.num_workers,
  )


def random_view(
  example: dict[str, Any], rng: np.random.Generator, size: int, flip: bool
) -> dict[str, np.ndarray]:
  """DALL-E's augmentation of an image (Ramesh et al. 2021, App. A.2).

  A random square of its short side s is brought, by means over areas, to a
  height uniform in min(s, 9/8 size), ..., min(s, 12/8 size); a random square
  of that is cut out, and mirrored with probability 1/2 where `flip` is set.

  Args:
    example: with `image`, uint8 `[H, W, C]`.
    rng: of the random choices.
    size: height and width of what is returned.
    flip: whether to mirror.

  Raises:
    ValueError: the image is smaller than `size`.
  """
  image = example["image"]
  short = min(image.shape[:2])
  if short < size:
    raise ValueError(
      f"random_view cuts out {size} x {size} pixels, got an image of "
      f"{image.shape[0]} x {image.shape[1]}"
    )
  image = _random_square(image, short, rng)
  low, high = (min(short, round(part * size / 8)) for part in (9, 12))
  height = int(rng.integers(low, high + 1))
  image = _random_square(_shrunk(image, height), size, rng)
  if flip and rng.random() < 0.5:
    image = image[:, ::-1]
  return {"image": image}


def _random_square(
  image: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
  top, left = (int(rng.integers(n - size + 1)) for n in image.shape[:2])
  return image[top : top + size, left : left + size]


def _shrunk(image: np.ndarray, size: int) -> np.ndarray:
  """A square image at another size; each pixel the mean of its area."""
  if len(image) == size:
    return image
  pil = optional("PIL.Image")
  channels = [
    np.asarray(pil.fromarray(channel).resize((size, size), pil.Resampling.BOX))
    for channel in image.transpose(2, 0, 1)
  ]
  return np.stack(channels, axis=-1)
