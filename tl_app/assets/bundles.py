"""Bundles: all downloads of a run in one tar archive, with lock.json, and their use without a network."""

import hashlib
import io
import logging
import os
import pathlib
import shutil
import tarfile
from collections.abc import Iterable, Mapping

from tl_app import files
from tl_app.assets import cache, locks
from tl_app.assets.locks import Download
from tl_app.errors import UserError

log = logging.getLogger(__name__)

LOCK, LOCK_SUM = "lock.json", "lock.json.sha256"
# Directory of the data sets of TFDS, as of --data_dir.
TFDS = "tfds"
AGAIN = "copy it again, or make it again with python -m tl_app.bundle"
_BLOCK = 2**20


def write(path: pathlib.Path, downloads: Iterable[Download], directories: Mapping[str, pathlib.Path]) -> None:
  """Writes a bundle. The same downloads give the same bytes.

  Args:
    path: of the archive, which appears when it is whole.
    downloads: of the run.
    directories: {path of a download in the archive: the directory of its files}.

  Raises:
    UserError: no space, or the directory cannot be written.
  """
  text = locks.to_text(downloads).encode()
  with (
    cache.writing(path.absolute().parent, "choose another --output"),
    files.atomic_path(path) as new,
    tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as tar,
  ):
    _add_text(tar, LOCK, text)
    _add_text(tar, LOCK_SUM, f"{hashlib.sha256(text).hexdigest()}  {LOCK}\n".encode())
    for download in downloads:
      for name, facts in download.files.items():
        member = tarfile.TarInfo(f"{download.path}/{name}")
        member.size = facts["size"]
        with (directories[download.path] / name).open("rb") as file:
          tar.addfile(member, file)


def _add_text(tar, name, text):
  member = tarfile.TarInfo(name)
  member.size = len(text)
  tar.addfile(member, io.BytesIO(text))


class Bundle:
  """An archive of `write`, unpacked below `root` when its first file is needed.

  Args:
    path: of the archive.
    root: `cache_root`.

  Raises:
    UserError: there is no such archive, or its lock.json is damaged.
  """

  def __init__(self, path: str, root: pathlib.Path):
    self.what, self._path, self._root = f"--bundle={path}", pathlib.Path(path), root
    text = self._lock_text()
    self.downloads = locks.from_text(text, self.what)
    self.directory = root / "bundles" / hashlib.sha256(text).hexdigest()[:16]

  def find(self, kind: str, source: str) -> tuple[Download, pathlib.Path]:
    """Returns a download and the directory of its files, each of which has the sha256 that lock.json names.

    Raises:
      UserError: the bundle does not hold it, it is damaged, or no space.
    """
    for download in self.downloads:
      if (download.kind, download.source) == (kind, source):
        return download, self._verified(download)
    held = ", ".join(download.name for download in self.downloads) or "no downloads"
    raise UserError(
      f"{self.what} does not hold {locks.shortened(source)}; it holds: {held}. Make a bundle "
      "with the flags of this run: python -m tl_app.bundle"
    )

  def _verified(self, download):
    directory = self.directory / download.path
    with cache.locked(self._root, f"bundle-{self.directory.name}", self.what):
      damage = locks.damage(download, directory)
      if damage:
        if self.directory.exists():
          log.warning("%s is unpacked again into %s: %s", self.what, self.directory, damage)
        self._unpack()
    return directory

  def _lock_text(self):
    """Returns lock.json as bytes; its sha256 is in the second file of the archive."""
    if not self._path.is_file():
      raise UserError(f"{self.what} is not a file: python -m tl_app.bundle --output=FILE.tar writes one")
    try:
      with tarfile.open(self._path, "r:") as tar:
        text, line = self._text(tar, LOCK, locks.MOST_BYTES), self._text(tar, LOCK_SUM, 1000)
    except (tarfile.TarError, EOFError, ValueError) as error:
      raise UserError(f"{self.what} is not a bundle, or is damaged ({cache.reason(error)}): {AGAIN}") from None
    if hashlib.sha256(text).hexdigest() != line[:64].decode("ascii", "replace"):
      raise UserError(f"{self.what} is damaged: {LOCK} has another sha256 than {LOCK_SUM} says: {AGAIN}")
    return text

  def _text(self, tar, name, most):
    member = tar.next()
    if member is None or member.name != name or not member.isreg() or member.size > most:
      raise ValueError(f"it has no {name} where a bundle has it")
    return tar.extractfile(member).read()

  def _unpack(self):
    total = sum(download.size for download in self.downloads)
    with cache.writing(self.directory.parent):
      free = shutil.disk_usage(self.directory.parent).free
      if total > free:
        raise UserError(
          f"{self.what} needs {total / 1e6:,.0f} MB in {self.directory.parent}, where {free / 1e6:,.0f} MB are free: "
          "free some, or set --cache_dir or TL_APP_CACHE"
        )
      with files.atomic_path(self.directory) as new:
        self._extract(new)

  def _extract(self, directory):
    """Writes the files that lock.json names into `directory`; anything else in the archive is an error."""
    waiting = {f"{d.path}/{name}": facts for d in self.downloads for name, facts in d.files.items()}
    try:
      with tarfile.open(self._path, "r:") as tar:
        for member in tar:
          if member.name in (LOCK, LOCK_SUM):
            continue
          facts = waiting.pop(member.name, None)
          if facts is None or not member.isreg() or member.size != facts["size"]:
            raise UserError(f"{self.what} is damaged: {member.name!r} is not what {LOCK} says: {AGAIN}")
          self._copy(tar.extractfile(member), facts, directory / member.name, member.name)
    except (tarfile.TarError, EOFError, ValueError) as error:
      raise UserError(f"{self.what} is damaged ({cache.reason(error)}): {AGAIN}") from None
    if waiting:
      raise UserError(f"{self.what} is damaged: {next(iter(waiting))!r}, which {LOCK} names, is missing: {AGAIN}")

  def _copy(self, source, facts, target, name):
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as sink:
      while block := source.read(_BLOCK):
        digest.update(block)
        sink.write(block)
      sink.flush()
      os.fsync(sink.fileno())
    if digest.hexdigest() != facts["sha256"]:
      raise UserError(f"{self.what} is damaged: {name!r} has another sha256 than {LOCK} says: {AGAIN}")
