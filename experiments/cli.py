"""How a script ends: one sentence for a user's mistake, not a traceback."""

import os
from collections.abc import Callable

from jaxgen import training


def command_line(main: Callable[[], object]) -> None:
  """Runs `main`; a foreseen error is printed in one line, with exit status 1.

  Set JAXGEN_TRACEBACK=1 to see where it came from.
  """
  try:
    main()
  except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as e:
    if os.environ.get("JAXGEN_TRACEBACK"):
      raise
    training.leave(str(e))
