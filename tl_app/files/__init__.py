"""Atomic writing of files: a reader sees the old file or the new one, never a part."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

# How the file begins that Git LFS leaves in place of a large one.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(data: bytes) -> bool:
  """Whether bytes are those of a file that Git LFS has not fetched."""
  return data.startswith(LFS_POINTER)


def require_regular(path: str | os.PathLike[str]) -> None:
  """Raises `OSError` if a path is missing, or leads to a pipe, a socket or a device, whose reading may never end."""
  mode = os.stat(path).st_mode
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
    raise OSError(errno.EINVAL, "it is a pipe, a socket or a device", str(path))


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`; renames it onto `path` when the block ends, removes it when the block fails.

  The block creates a file or a directory. A directory at `path` is replaced as a whole.
  """
  path = pathlib.Path(path)
  holder = path.parent
  try:
    holder.mkdir(parents=True, exist_ok=True)
    holder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new = holder / path.name
    yield new
    if new.is_dir() and path.exists():
      os.rename(path, holder / "old")
    os.replace(new, path)
  except OSError as error:
    # An error of writing has no file name, and that of the temporary file would tell the user nothing.
    if error.errno is not None and (not error.filename or f"{path.parent}{os.sep}." in str(error.filename)):
      error.filename = str(path)
    raise
  finally:
    if holder != path.parent:
      shutil.rmtree(holder, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes UTF-8 text atomically. A file name that is not UTF-8 is escaped, in JSON so that it is read as it was."""
  with atomic_path(path) as new:
    new.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes `value` as indented JSON, atomically; a list of numbers is one line. NaN is an error: it is not JSON.

  The text is written in parts, so that a large value needs no second copy in memory.
  """
  with atomic_path(path) as new, open(new, "w", encoding="utf-8", errors="backslashreplace") as file:
    file.writelines(_json_parts(value, "\n"))
    file.write("\n")


def _json_parts(value, newline):
  """Yields the text of a JSON value whose lines begin with `newline`."""
  inner, parts = newline + "  ", ()
  if isinstance(value, dict) and value:
    parts = (
      (_json_text(name if isinstance(name, str) else json.dumps(name)) + ": ", part) for name, part in value.items()
    )
  elif isinstance(value, (list, tuple)) and not all(type(part) in (int, float) for part in value):
    parts = (("", part) for part in value)
  else:
    yield _json_text(value)
    return
  opening, closing = "{}" if isinstance(value, dict) else "[]"
  for index, (name, part) in enumerate(parts):
    yield (opening if index == 0 else ",") + inner + name
    yield from _json_parts(part, inner)
  yield newline + closing


def _json_text(value):
  return json.dumps(value, allow_nan=False, ensure_ascii=False)


def read_json(path: str | os.PathLike[str]) -> Any:
  """Returns the parsed JSON of a UTF-8 file."""
  return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
