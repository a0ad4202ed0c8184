"""Limits for compressed files: a small one that others made must not fill the memory or the disk."""

import gzip
import os
import pathlib
import typing
import zipfile
import zlib
from collections.abc import Iterable

# A file may always grow to this size, in bytes.
FREE = 64 << 20
# Above `FREE` it may be this many times as large as its compressed form. Texts reach 20, tables of few values 100.
RATIO = 200
# The advice of both messages.
ADVICE = "unpack it yourself if you trust it"


class TooLarge(ValueError):
  """What a compressed file holds is far larger than the file; the message is for the user."""


class GzipFile(gzip.GzipFile):
  """A gzip file for reading that raises `TooLarge` where its content exceeds the limits."""

  def __init__(self, path: str | os.PathLike[str]):
    """Opens a file for reading.

    Args:
      path: of the file.
    """
    super().__init__(path, "rb")
    self._most, self._path = largest(os.path.getsize(path)), path

  def read(self, size: int | None = -1) -> bytes:
    """Returns at most `size` bytes, or all of them."""
    if size is None or size < 0:
      parts = []
      while part := self.read(1 << 20):
        parts.append(part)
      return b"".join(parts)
    return self._checked(super().read(size))

  def readline(self, size: int | None = -1) -> bytes:
    """Returns a line, or its first `size` bytes."""
    return self._checked(super().readline(-1 if size is None else size))

  def _checked(self, data):
    if self.tell() > self._most:
      raise TooLarge(f"{self._path} is refused: it unpacks to {_more_than(self._most)}; {ADVICE}")
    return data


def largest(compressed: int) -> int:
  """Returns how many bytes a compressed file of this many bytes may hold."""
  return max(FREE, RATIO * compressed)


def check_zip(path: str | os.PathLike[str] | typing.IO[bytes], name: str = "") -> None:
  """Checks what the members of a zip file claim to hold; reading them gives no more.

  Args:
    path: of the file, or the open file.
    name: of the file, for the message; "" for `path`.

  Raises:
    TooLarge: they are far larger than the file.
    zipfile.BadZipFile, OSError: it is no zip file, or cannot be read.
  """
  with zipfile.ZipFile(path) as archive:
    members = archive.infolist()
  size, packed = sum(member.file_size for member in members), sum(member.compress_size for member in members)
  # Members that lie on each other would count the same bytes again and again.
  if isinstance(path, (str, os.PathLike)):
    packed = min(packed, os.path.getsize(path))
  if size > largest(packed):
    raise TooLarge(f"{name or path} is refused: it unpacks to {_more_than(largest(packed))}; {ADVICE}")


def check_sizes(sizes: Iterable[int], path: str | os.PathLike[str]) -> None:
  """Raises `TooLarge` if the members of a compressed archive have more bytes in all than its own size allows."""
  if sum(sizes) > largest(os.path.getsize(path)):
    raise TooLarge(f"{path} is refused: it unpacks to {_more_than(largest(os.path.getsize(path)))}; {ADVICE}")


def read_gzip(path: pathlib.Path) -> bytes:
  """Returns the content of a gzip file.

  Raises:
    TooLarge: it is far larger than the file.
    gzip.BadGzipFile, EOFError, zlib.error, OSError: it is damaged, or cannot be read.
  """
  with GzipFile(path) as file:
    return file.read()


DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)


def _more_than(most):
  return f"more than {most >> 20:,} MB, over {RATIO} times its size"
