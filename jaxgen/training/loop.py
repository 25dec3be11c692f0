"""What a training loop needs besides its step: a log, and a way to stop.

The loop itself is a few lines; the experiments share `experiments.fitting`:

    with stop_on_sigterm() as stop, Checkpoints(...) as checkpoints:
      state = checkpoints.restore(state, batches)
      steps = range(int(state.step) + 1, num_steps + 1)
      with Log(path, checkpoints, steps) as log:
        for step in steps:
          state, metrics = train_step(state, shard_batch(mesh, next(batches)))
          log(step, metrics)
          stopping = stop(step)
          if stopping or step % save_every == 0 or step == num_steps:
            log.flush()
            checkpoints.save(state, batches)
          if stopping:
            break
"""

import contextlib
import logging
import math
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from jaxgen.training.checkpoints import Checkpoints
from jaxgen.training.metrics import MetricsWriter
from jaxgen.training.progress import Progress
from jaxgen.training.step import Metrics

# Steps the host may be ahead of the device: enough to hide the reading of the
# metrics, few enough that waiting batches take little memory.
LAG = 4
# Steps in a row that may be skipped: as many are no accident of the data.
MAX_SKIPPED = 20
# Examples that a message names.
_SHOWN = 64

_log = logging.getLogger(__name__)


class Log:
  """Metrics of every step, read a few steps late so that nothing waits.

  Process 0 shows progress and writes every `every`-th step to the file. All
  processes watch the loss: where it is not finite training ends, or, where the
  step is of `skip_nonfinite`, goes on. A skipped step is warned of and has a
  line of the file that holds nothing but `skipped`, the number of them so far.
  """

  def __init__(
    self,
    path: str | Path,
    checkpoints: Checkpoints,
    steps: range,
    every: int = 100,
    seconds: float = 30.0,
    examples: Callable[[int], Iterable[int]] | None = None,
  ) -> None:
    """Opens the log.

    Args:
      path: the metrics file, continued after step `steps.start - 1`.
      checkpoints: asked for the last good one when training has diverged.
      steps: those still to make, counted from 1.
      every: steps between lines of the file.
      seconds: time between lines of progress where there is no terminal.
      examples: step -> the indices of the examples in its batch; to be told
        where a loss is not finite.
    """
    if every < 1:
      raise ValueError(f"every must be at least 1, got {every}")
    self._examples = examples
    self._skipped_in_a_row = 0
    self._checkpoints = checkpoints
    self._every = every
    self._queue: deque[tuple[int, Metrics]] = deque()
    self._writer: MetricsWriter | None = None
    self._progress: Progress | None = None
    if jax.process_index() == 0:
      self._writer = MetricsWriter(path, steps.start - 1)
      self._progress = Progress(steps.stop - 1, seconds)

  def __enter__(self) -> "Log":
    return self

  def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
    try:
      if kind is None:
        self.flush()
    finally:
      for part in (self._writer, self._progress):
        if part is not None:
          part.close()

  def __call__(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of a step, and reads those of a few steps ago.

    Raises:
      FloatingPointError: loss or gradient of one of those is not finite, and
        its step was not skipped; or 20 in a row were.
      OSError: the file cannot be written.
    """
    for value in metrics.values():
      value.copy_to_host_async()
    self._queue.append((step, metrics))
    while len(self._queue) > LAG:
      self._read(*self._queue.popleft())

  def flush(self) -> None:
    """Reads all that is waiting; to be called before a checkpoint is saved.

    Then no checkpoint holds parameters that are not finite, and none is newer
    than the file.

    Raises:
      FloatingPointError: as above.
      OSError: the file cannot be written.
    """
    while self._queue:
      self._read(*self._queue.popleft())

  def _read(self, step: int, metrics: Metrics) -> None:
    fault = _fault(metrics)
    self._skipped_in_a_row = self._skipped_in_a_row + 1 if fault else 0
    if fault:
      self._explain(step, fault, "skipped" in metrics)
    if self._progress is not None:
      self._progress.update(step, float(metrics["loss"]))
    if self._writer is None or not (fault or step % self._every == 0):
      return
    values = {} if fault else {k: float(v) for k, v in metrics.items()}
    if "skipped" in metrics:
      so_far = self._writer.last.get("skipped", 0)
      values["skipped"] = so_far + float(metrics["skipped"])
    self._writer.write(step, values)

  def _explain(self, step: int, fault: str, skipped: bool) -> None:
    """Warns of a step that was skipped; raises if it was not.

    Raises:
      FloatingPointError: also where too many were skipped in a row.
    """
    what = f"{fault} at step {step}{self._whose(step)}"
    if skipped and self._skipped_in_a_row < MAX_SKIPPED:
      if jax.process_index() == 0:
        _log.warning("%s; the step is skipped", what)
      return
    self._checkpoints.wait()
    latest = self._checkpoints.latest_step()
    good = "none was saved" if latest is None else f"step {latest}"
    if skipped:
      what += f", as at the {MAX_SKIPPED - 1} before, which were skipped"
    raise FloatingPointError(f"{what}; last good checkpoint: {good}")

  def _whose(self, step: int) -> str:
    """The examples of a step's batch, where they are known, for a message."""
    if self._examples is None:
      return ""
    rows = [int(row) for row in self._examples(step)]
    shown = ", ".join(map(str, rows[:_SHOWN]))
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f" (examples {shown}{more} of the data set)"


def _fault(metrics: Metrics) -> str:
  """What of a step is not finite, in a few words; "" if nothing.

  A gradient that is not finite ruins the parameters of this very step, the loss
  shows it only at the next.
  """
  for name in ("loss", "grad_norm"):
    value = float(metrics[name])
    if not math.isfinite(value):
      return f"{name} is {value}"
  return ""


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Callable[[int], bool]]:
  """Turns SIGTERM into `stop(step)`, true when the loop shall save and leave.

  To be entered before `Checkpoints`, so that its parting line comes when the
  checkpoint is complete. With several processes all stop at the same step,
  which JAX's preemption service agrees on; `stop` must see every step then.
  """
  received = threading.Event()
  stopped_at = []

  def stop(step: int) -> bool:
    if jax.process_count() > 1:
      stopping = multihost_utils.reached_preemption_sync_point(step)
    else:
      stopping = received.is_set()
    if stopping:
      stopped_at.append(step)
    return stopping

  # With several processes SIGTERM is JAX's, since jax.distributed started.
  alone = jax.process_count() == 1
  before = signal.getsignal(signal.SIGTERM)
  if alone:
    signal.signal(signal.SIGTERM, lambda *_: received.set())
  try:
    yield stop
  finally:
    if alone:
      signal.signal(signal.SIGTERM, before)
  if stopped_at and jax.process_index() == 0:
    print(
      f"stopped by SIGTERM at step {stopped_at[0]}, saved; run the same "
      "command to continue",
      flush=True,
    )
