"""`DecodedImageIndex`: what was found out about images, by content, so that a second run decodes none of them."""

import contextlib
import importlib.metadata
import json
import logging
import pathlib
import sqlite3
import zlib
from collections.abc import Iterable

log = logging.getLogger(__name__)

# Seconds to wait for another process that writes.
TIMEOUT = 30.0
# Raise it when `preprocessing.image.verify`, or a field or value of `ImageFacts`, changes.
RULES = 1
# Paths of files that cannot be used; each gives one warning.
_told = set()
_TABLE = "CREATE TABLE IF NOT EXISTS seen (hash TEXT, by TEXT, found TEXT, crc INTEGER, PRIMARY KEY (hash, by))"


class DecodedImageIndex:
  """JSON values by content hash, in one SQLite file.

  An image is in it once the decoder of training could read it. Entries of other rules, or of other versions of the
  libraries that decode, do not count. If the file can be neither read nor written, the index is empty.

  Args:
    root: the root of the cache.
  """

  def __init__(self, root: pathlib.Path):
    self._path = root / "images.sqlite"
    libraries = [f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "pillow")]
    self._by = ", ".join([f"rules {RULES}", *libraries])

  def hashes(self) -> frozenset[str]:
    """Returns the content hashes in the index."""
    return frozenset(key for (key,) in self._run("SELECT hash FROM seen WHERE by = ?", [(self._by,)]))

  def find(self, hashes: Iterable[str]) -> dict[str, object]:
    """Returns {hash: value} of those of `hashes` that are in the index."""
    rows = self._run("SELECT hash, found, crc FROM seen WHERE by = ? AND hash = ?", [(self._by, key) for key in hashes])
    return {key: json.loads(found) for key, found, crc in rows if zlib.crc32(found.encode()) == crc}

  def add(self, values: dict[str, object]) -> None:
    """Adds {hash: value}; a value is ready for JSON."""
    texts = {key: json.dumps(value) for key, value in values.items()}
    rows = [(key, self._by, text, zlib.crc32(text.encode())) for key, text in texts.items()]
    if rows:
      self._run("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", rows)

  def _run(self, statement, rows):
    """Returns what a statement gives for all of `rows`, in one transaction."""
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      with contextlib.closing(sqlite3.connect(self._path, timeout=TIMEOUT)) as connection, connection:
        connection.execute(_TABLE)
        return [found for row in rows for found in connection.execute(statement, row)]
    except (sqlite3.Error, OSError) as error:
      if str(self._path) not in _told:
        _told.add(str(self._path))
        # A damaged file; that it is locked, or cannot be written, is an `OperationalError`.
        advice = "; remove the file to begin anew" if type(error) is sqlite3.DatabaseError else ""
        log.warning("%s: %s: images are decoded again in every run%s", self._path, error, advice)
      return []
