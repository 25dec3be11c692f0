"""What holds for every training's fields, and for the rows of its tables."""

from collections.abc import Iterable
from typing import Any


def check_counts(config: Any, *counts: str) -> None:
  """Refuses counts below 1, and a learning rate that is not positive.

  Args:
    config: of an experiment.
    *counts: fields that count something, besides those that all trainings have.

  Raises:
    ValueError: a field is out of range.
  """
  for name in ("batch_size", "steps", "save_every", "log_every", *counts):
    if getattr(config, name) < 1:
      raise ValueError(
        f"{name} must be at least 1, got {getattr(config, name)}"
      )
  if not config.lr > 0:
    raise ValueError(f"lr must be positive, got {config.lr}")


def check_run(config: Any, *counts: str) -> None:
  """Refuses fields that all trainings have where they are out of range.

  Those that not every training has, `dropout` and `decay_steps`, are looked at
  where they are.

  Args:
    config: of an experiment.
    *counts: further fields that count something.

  Raises:
    ValueError: a field is out of range, or two contradict each other.
  """
  check_counts(config, *counts)
  dropout = getattr(config, "dropout", None)
  if dropout is not None and not 0 <= dropout < 1:
    raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
  decay_steps = getattr(config, "decay_steps", 0)
  if 0 < decay_steps < config.steps:
    raise ValueError(
      f"the learning rate is 0 after decay_steps = {decay_steps}, which must "
      f"be at least steps = {config.steps}"
    )


def chosen_rows(asked: tuple[str, ...], rows: Iterable[str]) -> tuple[str, ...]:
  """The rows of a table to train: those asked for, or all.

  Raises:
    ValueError: there is no such row.
  """
  known = tuple(rows)
  if unknown := set(asked) - set(known):
    raise ValueError(
      f"the rows are {', '.join(known)}; got {', '.join(sorted(unknown))}"
    )
  return asked or known
