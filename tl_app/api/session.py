"""What a call from Python does around a command: it starts TensorFlow quietly and shows the progress."""

import contextlib
import logging
import typing
from collections.abc import Iterable, Iterator, Mapping

from tl_app import terminal
from tl_app.commands import cli
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


def inputs(values: typing.Any) -> list:
  """Returns the inputs that a person gave as a list.

  Raises:
    UserError: they are one value, or a table or a dict, whose items are the names of its columns.
  """
  if isinstance(values, Mapping) or hasattr(values, "columns"):
    raise UserError("the inputs are a table, not a list: give one of its columns, as in frame['text']")
  if isinstance(values, bytes) or not isinstance(values, Iterable):
    raise UserError(f"the inputs are {type(values).__name__}, not a list: give a list, or the path of a file")
  return list(values)


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
