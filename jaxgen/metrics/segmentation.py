"""Mean intersection over union of segmentations."""

from typing import NamedTuple

import numpy as np

IGNORED = 255


class Segmentation(NamedTuple):
  """What a confusion matrix says.

  Attributes:
    mean_iou: mean over the classes that occur of `iou`.
    mean_accuracy: mean over the classes that occur in the labels of the share
      of their pixels that were found.
    accuracy: share of all pixels that were right.
    iou: of each class, NaN where it occurs neither in labels nor predictions.
  """

  mean_iou: float
  mean_accuracy: float
  accuracy: float
  iou: np.ndarray


def confusion_matrix(
  labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts of pixels, int64 `[num_classes, num_classes]`, labels first.

  Matrices of parts of a data set are added.

  Args:
    labels: integers of any shape; 255 is left out.
    predicted: integers of the same shape, in [0, num_classes).
    num_classes: how many there are.

  Raises:
    ValueError: shapes differ, or a class is out of range.
  """
  labels, predicted = np.asarray(labels), np.asarray(predicted)
  if labels.shape != predicted.shape:
    raise ValueError(
      "confusion_matrix needs labels and predictions of one shape, got "
      f"{labels.shape} and {predicted.shape}"
    )
  known = labels != IGNORED
  rows = labels[known].astype(np.int64)
  columns = predicted[known].astype(np.int64)
  for name, values in (("labels", rows), ("predictions", columns)):
    if values.size and not (0 <= values.min() <= values.max() < num_classes):
      raise ValueError(
        f"{name} must lie in [0, {num_classes}), got "
        f"[{values.min()}, {values.max()}]"
      )
  counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)


def segmentation(matrix: np.ndarray) -> Segmentation:
  """Scores of a confusion matrix.

  IoU_k = right_k / (labelled_k + predicted_k - right_k).

  Raises:
    ValueError: the matrix counts no pixel.
  """
  right = np.diag(matrix).astype(float)
  labelled, predicted = matrix.sum(1), matrix.sum(0)
  if not labelled.sum():
    raise ValueError("the confusion matrix counts no pixel")
  union = labelled + predicted - right
  nan = np.full(len(right), np.nan)
  iou = np.divide(right, union, out=nan.copy(), where=union > 0)
  found = np.divide(right, labelled, out=nan, where=labelled > 0)
  return Segmentation(
    float(np.nanmean(iou)),
    float(np.nanmean(found)),
    float(right.sum() / labelled.sum()),
    iou,
  )
