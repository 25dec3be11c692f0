"""Watches what reading does: what it raises, opens, starts, and what it costs.

Python's audit hook sees programs started, code compiled, modules imported,
pickles' names looked up, sockets, and every file opened or changed. The kernel
counts memory and time.
"""

import ast
import contextlib
import dataclasses
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MEGABYTE = 2**20
ROOT = Path(__file__).parents[2]

_FORBIDDEN = (
  *("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork"),
  *("os.startfile", "os.kill", "os.putenv", "subprocess.", "pty."),
  *("socket.connect", "socket.bind", "socket.get", "socket.send"),
  *("ctypes.", "pickle.find_class", "marshal.", "code.", "compile", "exec"),
  *("import", "shutil.", "urllib.", "http.", "ftplib.", "webbrowser."),
)
_CHANGES = (
  *("os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove"),
  *("os.rename", "os.rmdir", "os.symlink", "os.truncate", "os.utime"),
  *("os.setxattr", "tempfile.mkstemp", "tempfile.mkdtemp"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What the interpreter and its packages may read of their own.
_READABLE = (sys.prefix, sys.base_prefix, str(ROOT), "/dev/null")


class Forbidden(BaseException):
  """Stops a reader that does what none may, past any `except Exception`."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What reading may cost.

  Attributes:
    memory: bytes, beside 20 times the size of the files.
    seconds: of the processor.
  """

  memory: int = 64 * MEGABYTE
  seconds: float = 1.0


@dataclasses.dataclass
class Outcome:
  """What came of reading.

  Attributes:
    error: what was raised; None if the file was read.
    faults: the promises that were broken.
    memory: most bytes at one time.
    seconds: of the processor.
  """

  error: BaseException | None = None
  faults: list[str] = dataclasses.field(default_factory=list)
  memory: int = 0
  seconds: float = 0.0


class _Watch:
  """The state of the one audit hook that a process can have."""

  folder: str | None = None
  seen: list[str]
  installed = False


def watched(
  read: Callable[[], Any],
  folder: Path,
  errors: tuple[type[Exception], ...],
  limits: Limits,
) -> Outcome:
  """Reads, and checks every promise.

  Args:
    read: the reader, its files given.
    folder: where they lie, alone; nothing outside it may be opened or changed,
      and nothing in it changed.
    errors: the types that the reader documents.
    limits: of memory and time.
  """
  if not _Watch.installed:
    sys.addaudithook(_audit)
    signal.signal(signal.SIGPROF, _too_late)
    _Watch.installed = True
  outcome = Outcome()
  before = _listing(folder)
  size = sum(length for _, length in before)
  allowed = limits.memory + 20 * size
  start, resident = time.process_time(), _reset_peak()
  _Watch.seen = []
  try:
    with _address_space(allowed), _alarm(4 * limits.seconds):
      _Watch.folder = str(folder)
      read()
  except BaseException as error:  # panics of Rust are no Exception
    outcome.error = error
  finally:
    _Watch.folder = None
  outcome.seconds = time.process_time() - start
  outcome.memory = max(0, _peak() - resident)
  outcome.faults = [
    *dict.fromkeys(_Watch.seen),
    *_error_faults(outcome.error, errors),
  ]
  if outcome.seconds > limits.seconds:
    outcome.faults.append(f"took {outcome.seconds:.1f} s")
  if outcome.memory > allowed:
    outcome.faults.append(f"took {outcome.memory / MEGABYTE:.0f} MB")
  if _listing(folder) != before:
    outcome.faults.append("changed its folder")
  return outcome


def _error_faults(
  error: BaseException | None, errors: tuple[type[Exception], ...]
) -> list[str]:
  """What is wrong with an error: a type not documented, or no sentence."""
  if error is None or isinstance(error, Forbidden):
    return []
  faults = []
  if type(error) not in errors:
    faults.append(f"raised {type(error).__name__}: {str(error)[:200]}")
  message = str(error)
  if not message.strip() or re.search(r"[\x00-\x1f\x7f]", message):
    faults.append(f"no sentence: {message[:200]!r}")
  if len(message) > 1000:
    faults.append(f"a message of {len(message)} characters: {message[:60]}")
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, MemoryError):
      faults.append(f"asked for too much memory: {str(cause)[:200]}")
    cause = cause.__cause__ or cause.__context__
  return faults


def _audit(event: str, args: tuple[Any, ...]) -> None:
  if _Watch.folder is None:
    return
  fault = None
  if event == "open":
    fault = _opening(*args)
  elif event in _CHANGES:
    paths = [a for a in args if isinstance(a, str | bytes | os.PathLike)]
    if not all(_inside(path, _Watch.folder) for path in paths):
      fault = f"{event} {args[:2]}"
  elif event.startswith(_FORBIDDEN) and not _only_parsed(event):
    fault = f"{event} {str(args[:1])[:100]}"
  if fault is not None:
    _Watch.seen.append(fault)
    raise Forbidden(fault)


def _only_parsed(event: str) -> bool:
  """Whether text becomes a syntax tree: arrays' headers are Python literals."""
  if event != "compile":
    return False
  frame: Any = sys._getframe(2)
  return frame.f_code is ast.parse.__code__


def _opening(path: Any, mode: Any, flags: Any) -> str | None:
  if isinstance(path, int) or _Watch.folder is None:
    return None
  writing = bool(set(str(mode or "")) & set("wax+"))
  writing = writing or bool((flags or 0) & _WRITING)
  roots = (_Watch.folder,) if writing else (_Watch.folder, *_READABLE)
  if any(_inside(path, root) for root in roots):
    return None
  return f"opened {os.fsdecode(path)} ({mode})"


def _inside(path: Any, root: str) -> bool:
  whole = os.path.realpath(os.fsdecode(path))
  return os.path.commonpath([whole, os.path.realpath(root)]) == (
    os.path.realpath(root)
  )


def _listing(folder: Path) -> list[tuple[str, int]]:
  found = []
  for parent, folders, names in os.walk(folder):
    for name in (*folders, *names):
      path = os.path.join(parent, name)
      stat = os.lstat(path)
      regular = not os.path.isdir(path) and not os.path.islink(path)
      found.append((path, stat.st_size if regular else 0))
  return sorted(found)


def _too_late(signum: int, frame: Any) -> None:
  del signum, frame
  if _Watch.folder is not None:
    _Watch.seen.append("had to be stopped")
    raise Forbidden("time")


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
  signal.setitimer(signal.ITIMER_PROF, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)


@contextlib.contextmanager
def _address_space(extra: int) -> Iterator[None]:
  """Makes allocations fail that the peak would not show, never touched."""
  limit = resource.getrlimit(resource.RLIMIT_AS)
  used = _status("VmSize")
  if used:
    most = used + extra + 512 * MEGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (most, limit[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, limit)


def _reset_peak() -> int:
  """The memory in use, from which on the peak counts."""
  with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
    file.write("5")
  return _status("VmRSS")


def _peak() -> int:
  return _status("VmHWM")


def _status(name: str) -> int:
  """Bytes of a line of Linux's status; 0 elsewhere."""
  try:
    text = Path("/proc/self/status").read_text()
  except OSError:
    return 0
  found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
  return int(found[1]) * 1024 if found else 0
