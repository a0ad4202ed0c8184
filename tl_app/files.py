"""Atomic writing of files: a reader sees the old file or the new one, never a part."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any


def expanded(value: Any) -> Any:
  """Returns the value of a flag that is a path, with the home directory in place of a leading ~ or ~user.

  This is the one place that turns such a flag into a path: `cli` calls it for the command line, `Config` for keywords
  and config.json. The form before a path stays: "table:~/mails.csv". A value that is no path is returned as it is.
  """
  if isinstance(value, os.PathLike):
    value = os.fspath(value)
  if not isinstance(value, str):
    return value
  found = re.match(r"[a-z]+:(?=~)", value)
  form = found[0] if found else ""
  return form + os.path.expanduser(value[len(form) :])


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`; renames it onto `path` when the block ends, removes it when the block fails.

  The block creates a file or a directory. A directory at `path` is replaced as a whole.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  holder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
  new = holder / path.name
  try:
    yield new
    if new.is_dir() and path.exists():
      os.rename(path, holder / "old")
    os.replace(new, path)
  finally:
    shutil.rmtree(holder, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes UTF-8 text atomically."""
  with atomic_path(path) as new:
    new.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes `value` as indented JSON, atomically. NaN is an error, since it is not JSON."""
  write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
  """Returns the parsed JSON of a UTF-8 file."""
  return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
