"""The downloads that a run has used, so that they can be recorded, locked and bundled."""

import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping

from tl_app.assets import locks
from tl_app.assets.locks import Download
from tl_app.errors import UserError


class Use:
  """One download that was used.

  Args:
    kind: as of `Download`.
    source: as of `Download`.
    licence: as of `Download`.
    locate: function that returns (directory, revision, {file: size and sha256} or None where they are not known). It
      is called when the files are there, and raises `UserError` where they are not.
    is_data: whether these are examples whose sums are not known: their files may take long to read.
    path: directory in a bundle; "" for one named after the source.
  """

  def __init__(
    self,
    kind: str,
    source: str,
    licence: str,
    locate: Callable[[], tuple[pathlib.Path, str, Mapping | None]],
    *,
    is_data: bool = False,
    path: str = "",
  ):
    self.kind, self.source, self.is_data, self.path = kind, source, is_data, path or _path(kind, source)
    self._licence, self._locate = licence, locate
    self._whole = None

  @property
  def directory(self) -> pathlib.Path:
    """Where the files are."""
    return self._locate()[0]

  def whole(self) -> Download:
    """Returns the `Download` with all its files, which are read once if their sums are not known."""
    if self._whole is None:
      directory, revision, files = self._locate()
      files = locks.files_of(directory) if files is None else files
      self._whole = Download(self.kind, self.source, revision, self._licence, self.path, files)
    return self._whole

  def described(self) -> Download:
    """Returns the `Download`; without files if it is a data set that was not read, or if they are not found."""
    if self._whole is None and self.is_data:
      return Download(self.kind, self.source, self._locate()[1], self._licence, self.path, {})
    try:
      return self.whole()
    except UserError:
      return Download(self.kind, self.source, "", self._licence, self.path, {})


def _path(kind, source):
  name = re.sub(r"[^\w.=-]+", "_", source.partition(" ")[0]).strip("_.")[-60:]
  return f"{kind}/{name}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
