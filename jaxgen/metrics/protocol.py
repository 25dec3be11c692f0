"""Scores that carry how they were measured, and refuse to compare otherwise."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Protocol:
  """All that must agree for two scores to compare.

  Attributes:
    features: the network, "inception-2015" for the field's FID.
    weights: the first digits of the SHA-256 of its file.
    resize: the rule that brought images to its size.
    reference: the real images; empty for metrics that use none.
    n: generated images.
    rounding: how they became 8-bit: "round", "truncate", or "given" if they
      were read from files.
    setting: the metric's own, such as "10 splits".
  """

  features: str
  weights: str
  resize: str
  reference: str
  n: int
  rounding: str
  setting: str = ""


@dataclasses.dataclass(frozen=True)
class Score:
  """A metric's value under a protocol.

  `a - b`, `a < b`, and so `min` and `sorted`, raise a ValueError if the two
  were not measured alike.

  Attributes:
    metric: its name; plain only for the field's Inception network.
    value: the number.
    std: over splits or subsets, where the metric has them.
    seeds: the first and last seed of the generated images; may differ between
      scores that are compared.
    protocol: how it was measured.
  """

  metric: str
  value: float
  std: float | None
  seeds: str
  protocol: Protocol

  def __sub__(self, other: "Score") -> float:
    """The difference of two scores of one protocol."""
    self._check(other)
    return self.value - other.value

  def __lt__(self, other: "Score") -> bool:
    """Whether the value is smaller, under one protocol."""
    self._check(other)
    return self.value < other.value

  def __str__(self) -> str:
    """The value, with its deviation."""
    digits = 2 if abs(self.value) >= 1 else 4
    deviation = "" if self.std is None else f" ± {self.std:.{digits}f}"
    return f"{self.value:.{digits}f}{deviation}"

  def _check(self, other: "Score") -> None:
    if not isinstance(other, Score):
      raise TypeError(f"a Score compares with a Score, got {other!r}")
    if self.metric != other.metric:
      raise ValueError(
        f"{self.metric} and {other.metric} are different metrics"
      )
    mine, theirs = (dataclasses.asdict(s.protocol) for s in (self, other))
    differing = [
      f"{name} ({value!r} and {theirs[name]!r})"
      for name, value in mine.items()
      if value != theirs[name]
    ]
    if differing:
      raise ValueError(
        f"two values of {self.metric} do not compare: they differ in "
        f"{', '.join(differing)}"
      )


def from_dict(fields: dict[str, Any]) -> Score:
  """The Score that `dataclasses.asdict` took apart."""
  return Score(**fields | {"protocol": Protocol(**fields["protocol"])})
