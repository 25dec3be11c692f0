"""The end of a job of several processes when one of them is lost."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

import jax

from jaxgen.messages import reason

_STATUS = re.compile(
  "(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "
)


@contextlib.contextmanager
def leave_with_the_lost() -> Iterator[None]:
  """Ends this process, in one sentence, when others can no longer be reached.

  To be entered after `Checkpoints`: a save that waits for the lost would not
  end. Unfinished checkpoints stay so; the newest finished one is where all
  continue, by the same command.

  What notices is JAX. On CPUs (gloo) a sum over processes fails as soon as one
  of them is gone. On GPUs and TPUs it may wait; then, and wherever a process
  hangs, its heartbeat is missed, after 100 seconds unless
  `jax.distributed.initialize` was given other `heartbeat_timeout_seconds`, and
  JAX ends the others itself, with SIGABRT and a message of its own.
  """
  try:
    yield
  except Exception as error:
    if jax.process_count() == 1 or not _of_jax(error):
      raise
    leave(
      f"process {jax.process_index()} of {jax.process_count()} cannot go on, "
      "perhaps because another is lost; run the same command on all of them to "
      f"continue: {reason(error)}"
    )


def _of_jax(error: BaseException | None) -> bool:
  """Whether it comes from an operation on devices, a failed save's say."""
  while error is not None:
    status = _STATUS.match(str(error))  # which may be a ValueError, too
    if isinstance(error, jax.errors.JaxRuntimeError) or status:
      return True
    error = error.__cause__
  return False


def leave(message: str) -> NoReturn:
  """Ends the process with "error: ..." and exit status 1.

  One among several leaves at once: an orderly exit would wait for the others,
  and they for it, JAX's 5 minutes.
  """
  if jax.distributed.is_initialized():
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)
  sys.exit(f"error: {message}")
