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
LOCK, _INDEX = "lock", "index.jsonl"


class FeatureCache:
  """Features stored by the content hash of their example, one or more rows per example.

  The directory has two files: `rows.f32` or `rows.f16` (all rows, without separators) and `index.jsonl` (per example
  {"hash", "crc"}, and "n", the number of rows, if it is not 1). Rows are written before the index, so a killed run
  leaves at most rows without an index entry, which are truncated later. The directory is created on the first write.
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
    self._rows = self.directory / f"rows.f{8 * self.dtype.itemsize}"
    self._index = self.directory / _INDEX

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
        self._truncate()
        writable = True
      except OSError as error:
        if not is_denied(error):
          raise
        writable = False
      yield writable

  def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (first row, number of rows) of each example, int64 [n] each, as indices into `rows()`.

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
    return starts, counts

  def missing(self, hashes: np.ndarray) -> np.ndarray:
    """Returns bool [n]: whether nothing is stored for each of `hashes`. Checksums are not verified."""
    known = {key for key, _, _ in self._load_index()}
    return np.array([key not in known for key in hashes], bool)

  def rows(self) -> np.ndarray:
    """Returns all stored rows, a memory map [rows, width]."""
    size = self._rows.stat().st_size // (self.dtype.itemsize * self.width) if self._rows.exists() else 0
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
    """
    with np.errstate(over="ignore"):
      rows = [np.ascontiguousarray(row, self.dtype).reshape(-1, self.width) for row in rows]
    if self.dtype == np.float16 and not all(np.isfinite(row).all() for row in rows):
      raise OverflowError("a feature is too large for float16")
    with open(self._rows, "ab") as file:
      for row in rows:
        file.write(row.data)
    lines = [_entry(key, zlib.crc32(row.data), len(row)) for key, row in zip(hashes, rows)]
    with open(self._index, "a", encoding="utf-8") as file:
      file.write("".join(lines))

  def clear(self):
    """Deletes all rows."""
    self._rows.unlink(missing_ok=True)
    self._index.unlink(missing_ok=True)

  def _load_index(self):
    """Returns [(hash, crc, number of rows)] of the examples that are stored completely."""
    if not self._index.exists():
      return []
    stored = self._rows.stat().st_size // (self.dtype.itemsize * self.width) if self._rows.exists() else 0
    entries = []
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

  def _truncate(self):
    """Removes what a killed run has written only in part."""
    entries = self._load_index()
    size = sum(n for _, _, n in entries) * self.dtype.itemsize * self.width
    text = "".join(_entry(*entry) for entry in entries).encode()
    if not self._index.exists() or self._index.stat().st_size != len(text):
      self._index.write_bytes(text)
    if self._rows.exists() and self._rows.stat().st_size != size:
      with open(self._rows, "r+b") as file:
        file.truncate(size)


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
  return rows[starts].astype(np.float32, copy=False)


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
    starts, counts = cache.find(hashes)
    known = np.flatnonzero(counts > 0)
    if len(known) and not _agrees(cache, known, starts, counts, compute):
      log.warning("feature cache: stored features differ from new ones; all are computed again")
      if writable:
        cache.clear()
      known, counts = known[:0], np.full_like(counts, -1)
    missing = np.flatnonzero(counts < 0)
    if len(known):
      log.info(
        "features: %s of %s examples read from %s; %d of them agree with new ones",
        *(f"{len(known):,}", f"{len(hashes):,}", cache.directory, min(PROBES, len(known))),
      )
    _, first = np.unique(hashes[missing], return_index=True)
    distinct, computed = missing[np.sort(first)], []
    with _computing(len(distinct)):
      for start in range(0, len(distinct), chunk):
        part = distinct[start : start + chunk]
        rows = compute(part)
        if writable:
          cache.append(hashes[part], rows)
        else:
          computed += [np.reshape(row, (-1, cache.width)) for row in rows]
    if len(missing) and not writable:
      return _with_unstored(cache.rows(), starts, counts, hashes, distinct, computed)
    # `find` reads every row for its checksum, so it is called again only if rows were added.
    return *(cache.find(hashes) if len(missing) else (starts, counts)), cache.rows()


@contextlib.contextmanager
def _computing(count):
  """Shows how many of `count` examples have features, and logs the time at the end."""
  start = time.monotonic()
  with progress.examples("features", count, last_line=False):
    yield
  if count:
    log.info("features: %s computed in %.1f s", number_of(count, "example"), time.monotonic() - start)


def _with_unstored(rows, starts, counts, hashes, distinct, computed):
  """Returns the result of `compute_missing` if the rows `computed` of the examples `distinct` cannot be stored."""
  sizes = np.array([len(new) for new in computed], np.int64)
  row_of = dict(zip(hashes[distinct], zip(len(rows) + np.cumsum(sizes) - sizes, sizes)))
  for i in np.flatnonzero(counts < 0):
    starts[i], counts[i] = row_of[hashes[i]]
  return starts, counts, np.concatenate([rows, *computed])


def _agrees(cache, known, starts, counts, compute):
  probes = np.unique(known[np.linspace(0, len(known) - 1, min(PROBES, len(known))).astype(int)])
  stored = cache.rows()
  pairs = [
    (stored[start : start + count].astype(np.float32), np.reshape(row, (-1, cache.width)))
    for start, count, row in zip(starts[probes], counts[probes], compute(probes))
  ]
  largest = max(float(np.abs(old).max()) for old, _ in pairs)
  limit = TOLERANCE[cache.dtype.name] * largest
  # With an infinite feature every difference would be within the limit.
  return np.isfinite(largest) and all(old.shape == new.shape and np.abs(old - new).max() <= limit for old, new in pairs)
