"""Checksums of the files that a run reads back: a file that was changed or damaged is found when it is opened.

A directory that tl_app wrote (a run, an export, a backbone) has checksums.json: {"format", "files": {path relative to
the directory: {"size", "sha256"}}}. A file that is not listed is not checked.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

from tl_app import files
from tl_app.errors import UserError

log = logging.getLogger(__name__)

NAME = "checksums.json"
FORMAT = 1
# A file of a run is in at most this many directories below it: checkpoints/NAME/weights.npz.
_LEVELS = 3
# What to do about a file of a run, an export or a backbone that differs.
AGAIN = "put back a copy of it, or train again"
EXPORT_AGAIN = "put back a copy of the export, or export again with python -m tl_app.export"
BACKBONE_AGAIN = "put back a copy of the backbone, or pretrain or export it again"
# Directories without checksums that were named in the log.
_told = set()


class ChecksumError(UserError):
  """A file is not what tl_app wrote."""


def sha256_of(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 hash of a file, in hexadecimal digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def of(root: pathlib.Path, paths: Iterable[pathlib.Path]) -> dict[str, dict]:
  """Returns {path relative to `root`: {"size", "sha256"}} of files."""
  return {path.relative_to(root).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}


def fault(path: pathlib.Path, entry: Mapping) -> str:
  """Returns how a file differs from its entry in a list of checksums, as the end of a sentence; "" if it does not."""
  if not path.is_file():
    return "is missing"
  same = path.stat().st_size == entry["size"] and sha256_of(path) == entry["sha256"]
  return "" if same else "is not what was written"


def write(root: pathlib.Path, paths: Iterable[pathlib.Path], **facts: object) -> None:
  """Writes the checksums of files below `root`, and `facts`, in place of earlier ones."""
  files.write_json(root / NAME, {"format": FORMAT, **facts, "files": of(root, paths)})


def facts(root: pathlib.Path) -> dict:
  """Returns what checksums.json of `root` holds, {} if there is no such file.

  Raises:
    UserError: it is damaged, or a newer tl_app wrote it.
  """
  path = root / NAME
  try:
    found = files.read_json(path)
    if found["format"] != FORMAT:
      raise UserError(f"{path} has format {found['format']}, and this tl_app reads format {FORMAT}: update tl_app")
    if not all(isinstance(entry["size"], int) and entry["sha256"] for entry in found["files"].values()):
      raise ValueError
  except (FileNotFoundError, NotADirectoryError):
    return {}
  except (ValueError, KeyError, TypeError, AttributeError):
    raise ChecksumError(
      f"{path} is damaged: put back a copy of it, or delete it to read the files without a check"
    ) from None
  return found


@contextlib.contextmanager
def replaced(root: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
  """Keeps the checksums of `root` right while the block writes `path`, a file or a directory with its own checksums.

  The file is not listed meanwhile, so that a killed process leaves no wrong checksum. Nothing is done where `root` has
  no checksums, or `path` is not in it.
  """
  root, path = root.resolve(), path.resolve()
  found = facts(root) if root in path.parents else {}
  listed = path if path.suffix else path / NAME
  if found and found["files"].pop(listed.relative_to(root).as_posix(), None):
    files.write_json(root / NAME, found)
  yield
  if found and listed.is_file():
    files.write_json(root / NAME, found | {"files": found["files"] | of(root, [listed])})


def verified(path: pathlib.Path, advice: str = AGAIN) -> pathlib.Path:
  """Returns the path of a file, of which the checksums of the nearest directory that lists it have been compared.

  Args:
    path: of the file. One that no directory lists is not compared.
    advice: what the user can do about a file that differs.

  Raises:
    ChecksumError: the file differs.
  """
  for root in list(path.parents)[:_LEVELS]:
    entry = facts(root).get("files", {}).get(path.relative_to(root).as_posix())
    if entry:
      _require(path, entry, advice)
      break
  return path


def verify_all(root: pathlib.Path, advice: str) -> None:
  """Compares all files of a directory with its checksums.

  Args:
    root: the directory. If an earlier tl_app wrote it, the log says so.
    advice: what the user can do about a file that differs.

  Raises:
    ChecksumError: a file differs.
  """
  if not is_listed(root):
    return
  # A run lists the checksums of the directories inside it.
  verified(root / NAME, advice)
  for name, entry in facts(root)["files"].items():
    _require(root / name, entry, advice)


def is_listed(root: pathlib.Path) -> bool:
  """Returns whether a directory has checksums; says in the log, once, that it has none."""
  if (root / NAME).is_file():
    return True
  if str(root) not in _told:
    _told.add(str(root))
    log.info("%s has no %s, as an earlier tl_app wrote it: its files are read without a check", root, NAME)
  return False


def _require(path, entry, advice):
  if not path.is_file():
    raise ChecksumError(f"{path} is missing: {advice}")
  if fault(path, entry):
    raise ChecksumError(f"{path} was changed or damaged since tl_app wrote it: {advice}")
