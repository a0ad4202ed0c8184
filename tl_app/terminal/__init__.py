"""What people see on a terminal: its width, its colours, lines that are wrapped between words.

A pipe or a file gets the same lines without colours, each in one piece.
"""

import logging
import os
import sys
import textwrap
import time
import typing

# Codes of the colours of the word with which a line begins.
_COLOURS = {"serious": "1;31", "warning": "33", "tl_app:": "1;31"}
_NARROWEST = 40
# A notebook breaks longer lines within a word.
_NOTEBOOK_COLUMNS = 100
# What stands before the lines of this process, with several workers.
_speaker = [""]
_start = [time.monotonic()]


def restart_clock() -> None:
  """Starts the clock of `elapsed`, which runs from the import of this module."""
  _start[0] = time.monotonic()


def elapsed() -> float:
  """Returns the seconds of the clock: the time of the command, or of what a program has done since `restart_clock`."""
  return time.monotonic() - _start[0]


def speak_as_worker(number: int) -> None:
  """Makes this process print warnings and errors only, each after the number of the worker that it is."""
  _speaker[0] = f"worker {number}: "
  logging.getLogger("tl_app").setLevel(logging.WARNING)


def speaker() -> str:
  """Returns what stands before the lines of this process: "worker 1: ", or "" for the one that prints everything."""
  return _speaker[0]


def is_terminal(stream: typing.TextIO) -> bool:
  """Whether a stream is a terminal that can move its cursor."""
  return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def in_notebook() -> bool:
  """Whether this process is the kernel of a notebook."""
  # IPython is there already if it runs this process; a test or a tool may have imported the rest of Jupyter.
  ipython = sys.modules.get("IPython")
  return hasattr(ipython.get_ipython() if ipython else None, "kernel")


def has_colours(stream: typing.TextIO) -> bool:
  """Whether a stream shows colours: a terminal, unless the environment has NO_COLOR (https://no-color.org)."""
  return is_terminal(stream) and not os.environ.get("NO_COLOR")


def width(stream: typing.TextIO) -> int:
  """Returns the number of columns of a terminal; $COLUMNS has precedence."""
  columns = os.environ.get("COLUMNS", "")
  try:
    return max(_NARROWEST, int(columns) if columns.isdigit() else os.get_terminal_size(stream.fileno()).columns)
  except OSError:
    return 80


def fitted(line: str, stream: typing.TextIO, hanging: int = 2) -> str:
  """Returns a line as the stream shows it: on a terminal it is wrapped between words and may have a coloured word.

  Args:
    line: the line.
    stream: where it will be written.
    hanging: number of columns by which its second and later lines are indented, beside its own indentation.
  """
  encoding = stream.encoding or "utf-8"
  line = line.encode(encoding, "backslashreplace").decode(encoding)
  if not is_terminal(stream):
    return line
  wrapped = _wrapped(line, width(stream), hanging)
  word = wrapped.split(" ", 1)[0]
  if word in _COLOURS and has_colours(stream):
    wrapped = f"\x1b[{_COLOURS[word]}m{word}\x1b[0m" + wrapped[len(word) :]
  return wrapped


def _wrapped(line, columns, hanging):
  indent = " " * (len(line) - len(line.lstrip()) + hanging)
  options = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False, "expand_tabs": False}
  return "\n".join(textwrap.wrap(line, columns, subsequent_indent=indent, **options))


def print_results(lines: str, hanging: int = 2) -> None:
  """Prints the lines of a result to standard output; on a terminal an empty line comes before them.

  A worker that is not the chief prints none.
  """
  if speaker():
    return
  if is_terminal(sys.stderr):
    print(file=sys.stderr, flush=True)
  for line in lines.splitlines():
    print(fitted(line, sys.stdout, hanging))


def escape_names() -> None:
  """Makes standard output and error escape the letters that their encoding lacks, for instance in a name of a file."""
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")


class Handler(logging.Handler):
  """Writes log records to standard error as it is at that moment: a moving bar stands in for it while it is shown."""

  def emit(self, record):
    try:
      print(fitted(speaker() + self.format(record), sys.stderr), file=sys.stderr, flush=True)
    except (OSError, ValueError):
      self.handleError(record)


class NotebookHandler(logging.StreamHandler):
  """Writes log records to standard output, which a notebook does not show in red, in lines that fit it."""

  def __init__(self):
    super().__init__(sys.stdout)

  def format(self, record):
    """Returns the lines of a record."""
    return _wrapped(super().format(record), _NOTEBOOK_COLUMNS, hanging=2)
