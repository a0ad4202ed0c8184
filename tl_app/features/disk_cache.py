"""Frozen features on disk: computed once per example content, written crash-safe, and verified when they are read."""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import time
import typing
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from tl_app import files
from tl_app.errors.counts import number_of
from tl_app.files import locks
from tl_app.files.locks import Lock
from tl_app.terminal import progress

log = logging.getLogger(__name__)

# Number of examples computed between two commits to disk: a killed run loses at most this many.
CHUNK = 2048
# Largest difference of new and stored features of the same examples, relative to the largest stored feature. It allows
# for rounding to float16, another batch shape (about 1e-6) and another engine (see `inference_engine.TOLERANCE`).
TOLERANCE = {"float16": 1e-3, "float32": 1e-4}
# Stored examples that are computed again for this comparison.
PROBES = 8
LOCK = "lock"
# Part of every key: raise it when files or features change in a way that no other part shows.
_FORMAT = 2
# Stands in an index for rows that no example uses.
_NO_HASH = ""


class FeatureCache:
  """Features stored by the content hash of their example, one or more rows per example.

  The directory has two files for each dtype: `rows.f32` or `rows.f16` (all rows, without separators) and
  `index.f32.jsonl` or `index.f16.jsonl` (per example {"hash", "crc"}, and "n", the number of rows, if it is not 1). The
  directory is created on the first write.

  Rows are written before the index, so a killed run leaves at most rows without an index entry. A whole row is never
  changed, because other processes read the file without a lock: rows without an entry get one that no example uses.
  """

  def __init__(self, directory: pathlib.Path, width: int, dtype=np.float32):
    """Creates the cache object; nothing is written.

    Args:
      directory: of the two files.
      width: number of features in a row.
      dtype: float32 or float16, the dtype of the stored rows.
    """
    self.directory = pathlib.Path(directory)
    self.width = width
    self.dtype = np.dtype(dtype)
    self._row_bytes = self.dtype.itemsize * width
    bits = 8 * self.dtype.itemsize
    self._rows, self._index = self.directory / f"rows.f{bits}", self.directory / f"index.f{bits}.jsonl"

  @contextlib.contextmanager
  def locked(self) -> Iterator[bool]:
    """Locks the cache, so that one process at a time computes and appends; the others wait.

    Yields:
      Whether this process may write to the cache. A cache that it may only read is not locked.
    """
    with contextlib.ExitStack() as stack:
      try:
        stack.enter_context(lock(self.directory))
        os.utime(self.directory)
        self._repair()
        writable = True
      except OSError as error:
        if not is_denied(error):
          raise
        writable = False
      yield writable

  def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (first row, number of rows) of each example, int64 [n] each, and all rows, a memory map [rows, width].

    The number is -1 if nothing is stored for the example or its checksum is wrong.

    Args:
      hashes: [n] content hashes.
    """
    entries = self._load_index()
    offsets = np.cumsum([0, *(n for _, _, n in entries)])
    stored = {key: (offsets[i], n, crc) for i, (key, crc, n) in enumerate(entries)}
    rows = self.rows()
    starts, counts = np.zeros(len(hashes), np.int64), np.full(len(hashes), -1, np.int64)
    for i, key in enumerate(hashes):
      if key in stored:
        start, n, crc = stored[key]
        if zlib.crc32(rows[start : start + n].tobytes()) == crc:
          starts[i], counts[i] = start, n
    return starts, counts, rows

  def missing(self, hashes: np.ndarray) -> np.ndarray:
    """Returns bool [n]: whether nothing is stored for each of `hashes`. Checksums are not verified."""
    known = {key for key, _, _ in self._load_index()}
    return np.array([key not in known for key in hashes], bool)

  def damaged(self, hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns bool [n]: whether a row that was read is not the one that was stored.

    Args:
      hashes: [n] content hashes of examples with one row each.
      rows: [n, width], of `dtype`.
    """
    checksums = {key: crc for key, crc, _ in self._load_index()}
    return np.array([checksums.get(key, found) != found for key, found in zip(hashes, map(zlib.crc32, rows))], bool)

  def rows(self) -> np.ndarray:
    """Returns all stored rows, a memory map [rows, width]."""
    size = self._size() // self._row_bytes
    if not size:
      return np.zeros((0, self.width), self.dtype)
    return np.memmap(self._rows, self.dtype, "r", shape=(size, self.width))

  def append(self, hashes: np.ndarray, rows: list) -> None:
    """Adds the features of examples; call it inside `locked`. The last rows of a content hash are used.

    Args:
      hashes: [n] content hashes.
      rows: n arrays, float [rows, width] or [width].

    Raises:
      OverflowError: a feature is too large for float16; nothing is added.
      OSError: the disk is full; nothing is added.
    """
    with np.errstate(over="ignore"):
      rows = [np.ascontiguousarray(row, self.dtype).reshape(-1, self.width) for row in rows]
    if self.dtype == np.float16 and not all(np.isfinite(row).all() for row in rows):
      raise OverflowError("a feature is too large for float16")
    lines = [_entry(key, zlib.crc32(row.data), len(row)) for key, row in zip(hashes, rows)]
    # Somebody may have deleted the cache.
    self.directory.mkdir(parents=True, exist_ok=True)
    size = self._size()
    try:
      with open(self._rows, "ab") as file:
        for row in rows:
          file.write(row.data)
      with open(self._index, "a", encoding="utf-8") as file:
        file.write("".join(lines))
    except OSError as error:
      # Nobody uses these rows yet, and a full disk needs their space.
      if self._rows.exists():
        os.truncate(self._rows, size)
      error.filename = error.filename or str(self._rows)
      raise

  def clear(self):
    """Deletes all rows."""
    self._rows.unlink(missing_ok=True)
    self._index.unlink(missing_ok=True)

  def _size(self):
    """Returns the bytes of the rows."""
    return self._rows.stat().st_size if self._rows.exists() else 0

  def _load_index(self):
    """Returns [(hash, crc, number of rows)] of the examples that are stored completely."""
    if not self._index.exists():
      return []
    stored, entries = self._size() // self._row_bytes, []
    for line in self._index.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
      try:
        entry = json.loads(line)
        key, crc, n = str(entry["hash"]), int(entry["crc"]), int(entry.get("n", 1))
      except (ValueError, KeyError, TypeError, AttributeError):
        break
      stored -= n
      if n < 0 or stored < 0:
        break
      entries.append((key, crc, n))
    return entries

  def _repair(self):
    """Makes the files whole again of which a killed run has written a part, or which were damaged."""
    entries, size = self._load_index(), self._size()
    unused = size // self._row_bytes - sum(n for _, _, n in entries)
    if unused:
      entries.append((_NO_HASH, 0, unused))
    text = "".join(_entry(*entry) for entry in entries)
    if not self._index.exists() or self._index.stat().st_size != len(text):
      files.write_text(self._index, text)
    if size % self._row_bytes:
      os.truncate(self._rows, size - size % self._row_bytes)


def _entry(key, crc, n):
  return json.dumps({"hash": key, "crc": crc} | ({"n": n} if n != 1 else {})) + "\n"


@contextlib.contextmanager
def lock(directory: pathlib.Path, wait: bool = True) -> Iterator[bool]:
  """Creates a cache directory if it does not exist, and holds its lock.

  Args:
    directory: of the cache.
    wait: whether to wait for another process that holds the lock.

  Yields:
    Whether the lock is held; always true with `wait`.

  Raises:
    OSError: the directory may not be written, or its file system has no locks; see `is_denied`.
  """
  while True:
    directory.mkdir(parents=True, exist_ok=True)
    try:
      file = open(directory / LOCK, "w")  # noqa: SIM115, closed below
    except FileNotFoundError:
      # Another run has deleted the directory in between.
      continue
    with file:
      held = locks.acquire(file)
      if held is Lock.TAKEN:
        if not wait:
          yield False
          return
        log.info("feature cache: another run writes %s; waiting for it", directory)
        held = locks.acquire(file, wait=True)
      if held is Lock.NOT_AVAILABLE:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(directory / LOCK))
      # The process that held it may have deleted the directory.
      is_current = False
      with contextlib.suppress(FileNotFoundError):
        is_current = os.path.samestat(os.stat(directory / LOCK), os.fstat(file.fileno()))
      if is_current:
        yield True
        return


def is_denied(error: OSError) -> bool:
  """Returns whether a cache must not be written: no permission, a read-only disk, or a file system without locks."""
  return isinstance(error, PermissionError) or error.errno in (errno.EROFS, errno.ENOLCK)


def key(**facts):
  """Returns the directory name of a cache: a SHA-256 hash of everything but the example that determines a feature.

  Args:
    **facts: weights, preprocessing and so on, as values that JSON can hold. The versions of the libraries that compute
      features are added.
  """
  facts["format"] = _FORMAT
  facts["versions"] = [
    importlib.metadata.version(name) for name in ("tensorflow", "tensorflow-text", "keras", "keras-hub")
  ]
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def features(cache: FeatureCache | None, hashes: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
  """Returns one feature row per example, float32 [n, width]: stored ones are read, the others are computed and added.

  Args:
    cache: the `FeatureCache`, or None to compute all.
    hashes: [n] content hashes.
    compute: function from int [k] positions in `hashes` to their features, float32 [k, width].
  """
  if cache is None:
    with _computing(len(hashes)):
      return compute(np.arange(len(hashes)))
  starts, _, rows = compute_missing(cache, hashes, compute)
  rows = rows[starts]
  # The file may have been damaged after `find` read it.
  damaged = cache.damaged(hashes, rows)
  rows = rows.astype(np.float32, copy=False)
  if damaged.any():
    rows[damaged] = compute(np.flatnonzero(damaged))
  return rows


def ragged_features(
  cache: FeatureCache | None, hashes: np.ndarray, compute: Callable[[np.ndarray], list], chunk: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features of examples with several rows each: (first row of each, int64 [n]; float32 [rows, width]).

  Args:
    cache: the `FeatureCache`, or None to compute all.
    hashes: [n] content hashes.
    compute: function from int [k] positions in `hashes` to a list of k arrays, float32 [rows, width].
    chunk: number of examples computed at a time.
  """
  if cache is None:
    with _computing(len(hashes)):
      parts = [compute(np.arange(i, min(i + chunk, len(hashes)))) for i in range(0, len(hashes), chunk)]
    rows = [row for part in parts for row in part]
    counts = np.array([len(row) for row in rows], np.int64)
    return np.cumsum(counts) - counts, np.concatenate(rows)
  starts, _, rows = compute_missing(cache, hashes, compute, chunk)
  return starts, rows


def compute_missing(
  cache: FeatureCache, hashes: np.ndarray, compute: Callable[[np.ndarray], typing.Any], chunk: int = CHUNK
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Computes the missing features and adds them to the cache. Some stored features are computed again and compared.

  Args:
    cache: the `FeatureCache`.
    hashes: [n] content hashes; equal contents are computed once.
    compute: function from int [k] positions in `hashes` to their features, k arrays, float32 [rows, width] or [width].
    chunk: number of examples between two commits to disk.

  Returns:
    (first row of each example, int64 [n]; number of rows of each, int64 [n]; all rows, float [rows, width]).
  """
  with cache.locked() as writable:
    starts, counts, stored = cache.find(hashes)
    known = np.flatnonzero(counts > 0)
    if len(known) and not _agrees(stored, known, starts, counts, compute):
      log.warning("feature cache: stored features differ from new ones; all are computed again")
      if writable:
        cache.clear()
      known, counts = known[:0], np.full_like(counts, -1)
    if len(known):
      log.info(
        "features: %s of %s examples read from %s; %d of them agree with new ones",
        *(f"{len(known):,}", f"{len(hashes):,}", cache.directory, min(PROBES, len(known))),
      )
    if writable and (counts < 0).any():
      for part, rows in _computed(hashes, counts, compute, chunk):
        cache.append(hashes[part], rows)
      # `find` reads every row for its checksum, so it is called again only if rows were added.
      starts, counts, stored = cache.find(hashes)
    if (counts < 0).any():
      # The cache may not be written, or what was written has been deleted or damaged.
      return _with_unstored(stored, starts, counts, hashes, list(_computed(hashes, counts, compute, chunk)))
    return starts, counts, stored


def _computed(hashes, counts, compute, chunk):
  """Yields (positions, rows of each), at most `chunk` at a time, for each content whose count is negative."""
  missing = np.flatnonzero(counts < 0)
  _, first = np.unique(hashes[missing], return_index=True)
  distinct = missing[np.sort(first)]
  with _computing(len(distinct)):
    for start in range(0, len(distinct), chunk):
      part = distinct[start : start + chunk]
      yield part, compute(part)


@contextlib.contextmanager
def _computing(count):
  """Shows how many of `count` examples have features, and logs the time at the end."""
  start = time.monotonic()
  with progress.examples("features", count, last_line=False):
    yield
  if count:
    log.info("features: %s computed in %.1f s", number_of(count, "example"), time.monotonic() - start)


def _with_unstored(stored, starts, counts, hashes, computed):
  """Returns the result of `compute_missing` with the parts of `_computed`, which are not in the cache."""
  new, row_of, total = [], {}, len(stored)
  for part, rows in computed:
    for key, row in zip(hashes[part], rows):
      new.append(np.reshape(row, (-1, stored.shape[1])))
      row_of[key] = total, len(new[-1])
      total += len(new[-1])
  for i in np.flatnonzero(counts < 0):
    starts[i], counts[i] = row_of[hashes[i]]
  return starts, counts, np.concatenate([stored, *new])


def _agrees(stored, known, starts, counts, compute):
  probes = np.unique(known[np.linspace(0, len(known) - 1, min(PROBES, len(known))).astype(int)])
  pairs = [
    (stored[start : start + count].astype(np.float32), np.reshape(row, (-1, stored.shape[1])))
    for start, count, row in zip(starts[probes], counts[probes], compute(probes))
  ]
  largest = max(float(np.abs(old).max()) for old, _ in pairs)
  limit = TOLERANCE[stored.dtype.name] * largest
  # With an infinite feature every difference would be within the limit.
  return np.isfinite(largest) and all(old.shape == new.shape and np.abs(old - new).max() <= limit for old, new in pairs)
