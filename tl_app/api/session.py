"""What a call from Python does around a command: it starts TensorFlow quietly and shows the progress."""

import contextlib
import logging
from collections.abc import Iterator

from tl_app import cli, terminal
from tl_app.errors import UserError

_log = logging.getLogger("tl_app")


@contextlib.contextmanager
def running() -> Iterator[None]:
  """A context in which TensorFlow has started and log lines are shown.

  Raises:
    UserError: memory or disk are full, or a path cannot be used.
  """
  progress = contextlib.nullcontext() if terminal.in_notebook() else cli.progress()
  terminal.restart_clock()
  with _log_shown(), progress:
    cli.start_tensorflow()
    try:
      yield
    except Exception as error:
      line = cli.machine_error(error)
      if not line:
        raise
      raise UserError(line) from error


@contextlib.contextmanager
def _log_shown():
  """Shows the log lines, unless the program has configured logging itself.

  They go to standard output in a notebook, which shows standard error in red.
  """
  # A handler that shows no such lines is the one that Python or a library has added.
  if _log.hasHandlers() and _log.isEnabledFor(logging.INFO):
    yield
    return
  handler = terminal.NotebookHandler() if terminal.in_notebook() else terminal.Handler()
  level, propagate = _log.level, _log.propagate
  _log.addHandler(handler)
  _log.setLevel(logging.INFO)
  _log.propagate = False
  try:
    yield
  finally:
    _log.removeHandler(handler)
    _log.setLevel(level)
    _log.propagate = propagate
