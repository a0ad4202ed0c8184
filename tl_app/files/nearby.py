"""`hint`: what a path that does not exist may have been meant for."""

import os
import pathlib
import re

from tl_app.errors import suggestion

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
_VARIABLE = re.compile(r"\$\{?(\w+)")
# Names in a directory among which a near one is looked for.
_MOST_NAMES = 10_000


def hint(path: str | os.PathLike[str]) -> str:
  """Returns the end of a message about a path that does not exist, "; did you mean runs/mails?", or "".

  Args:
    path: the path as the flag gives it, with ~ and variables replaced.
  """
  written = os.fspath(path)
  if _ADDRESS.match(written):
    return "; it is an address: download the files and give their path"
  unset = _VARIABLE.search(written)
  if unset and unset[1] not in os.environ:
    return f"; the environment variable {unset[1]} is not set"
  for other in (written.strip().strip("'\""), written.replace("\\", "/")):
    if other != written and os.path.exists(other):
      return f"; did you mean {other}?"
  if _WINDOWS.match(written):
    return "; it is a path of Windows: give the path on this system"
  seen = "" if os.path.isabs(written) else f", seen from {pathlib.Path.cwd()}"
  return seen + _near(pathlib.Path(written))


def _near(path):
  """Returns the hint about the first part of a path that is not there."""
  missing = path
  while not missing.parent.exists() and missing != missing.parent:
    missing = missing.parent
  try:
    with os.scandir(missing.parent) as entries:
      names = [entry.name for _, entry in zip(range(_MOST_NAMES), entries)]
  except OSError:
    return ""
  near = suggestion(missing.name, sorted(names))
  if near:
    name = near.removeprefix("; did you mean ").removesuffix("?")
    return f"; did you mean {missing.parent / name / path.relative_to(missing)}?"
  return "" if missing == path else f"; there is no {missing} either"
