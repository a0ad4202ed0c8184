"""Frozen features on disk: computed once per example content, appended crash-safe, checked on the way back."""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import re
import shutil
import zlib

import numpy as np

log = logging.getLogger(__name__)

# Rows handed to the network between two commits to disk: what a killed run loses at most.
CHUNK = 2048
# Fresh and stored features of the same examples may differ by this share of the largest: by the rounding of float16, or
# by that of another batch shape (about 1e-6) or engine (see `inference_engine.TOLERANCE`), not by more.
TOLERANCE = {"float16": 1e-3, "float32": 1e-4}
PROBES = 8
# Of the free disk, what a run may fill.
DISK_SHARE = 0.9
_LOCK, _INDEX = "lock", "index.jsonl"
_NAME = re.compile(r"([a-z]+-)?[0-9a-f]{32}")


class FeatureCache:
  """Features by the content of their example: one or several positions of `width` numbers each.

  Two files: `rows.f32` or `rows.f16` (positions back to back) and `index.jsonl` (one {"hash", "crc"} an example, with
  "n", the number of positions, where it is not 1). The numbers are written first, so a killed run leaves at most
  numbers without index, which are cut off. The directory is made where it is first written to.
  """

  def __init__(self, directory, width, dtype=np.float32):
    self.directory = pathlib.Path(directory)
    self.width = width
    self.dtype = np.dtype(dtype)
    self._rows = self.directory / f"rows.f{8 * self.dtype.itemsize}"
    self._index = self.directory / _INDEX

  @contextlib.contextmanager
  def locked(self):
    """One process at a time computes and appends; the others wait and then find the rows.

    Yields whether this one may write there: of a cache that it may not, it can read what is whole without a lock.
    """
    with contextlib.ExitStack() as stack:
      try:
        stack.enter_context(_lock(self.directory))
        os.utime(self.directory)
        self._cut_off()
        writable = True
      except OSError as error:
        if not _is_denied(error):
          raise
        writable = False
      yield writable

  def find(self, hashes):
    """Returns (first position, number of positions), int64 [n] each, of what is stored for `hashes`.

    The number is -1 where nothing is stored or its checksum does not hold.
    """
    entries = self._load_index()
    starts = np.cumsum([0, *(n for _, _, n in entries)])
    place = {key: (starts[i], n, crc) for i, (key, crc, n) in enumerate(entries)}
    positions = self.positions()
    found = np.zeros((2, len(hashes)), np.int64)
    found[1] = -1
    for i, key in enumerate(hashes):
      if key in place:
        start, n, crc = place[key]
        if zlib.crc32(positions[start : start + n].tobytes()) == crc:
          found[:, i] = start, n
    return found[0], found[1]

  def missing(self, hashes):
    """Returns bool [n]: for which of `hashes` nothing is stored; checksums are not looked at."""
    known = {key for key, _, _ in self._load_index()}
    return np.array([key not in known for key in hashes], bool)

  def positions(self):
    """Returns all that is stored, a memory map [positions, width]."""
    size = self._rows.stat().st_size // (self.dtype.itemsize * self.width) if self._rows.exists() else 0
    if not size:
      return np.zeros((0, self.width), self.dtype)
    return np.memmap(self._rows, self.dtype, "r", shape=(size, self.width))

  def append(self, hashes, rows):
    """Adds `rows`, float [positions, width] or [width] each, while `locked`. A later row of a content counts.

    Raises:
      OverflowError: float16 does not hold some number of them; nothing is added.
    """
    with np.errstate(over="ignore"):
      rows = [np.ascontiguousarray(row, self.dtype).reshape(-1, self.width) for row in rows]
    if self.dtype == np.float16 and not all(np.isfinite(row).all() for row in rows):
      raise OverflowError("a feature is beyond float16")
    with open(self._rows, "ab") as file:
      for row in rows:
        file.write(row.data)
    lines = [_entry(key, zlib.crc32(row.data), len(row)) for key, row in zip(hashes, rows)]
    with open(self._index, "a", encoding="utf-8") as file:
      file.write("".join(lines))

  def clear(self):
    """Forgets every row."""
    self._rows.unlink(missing_ok=True)
    self._index.unlink(missing_ok=True)

  def _load_index(self):
    """Returns [(hash, crc, number of positions)] of what is whole on disk."""
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

  def _cut_off(self):
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
def _lock(directory, wait=True):
  """Holds the lock of a cache directory, which then is there; yields whether it does: without `wait` it may not."""
  while True:
    directory.mkdir(parents=True, exist_ok=True)
    try:
      file = open(directory / _LOCK, "w")  # noqa: SIM115, closed below
    except FileNotFoundError:
      # Another run has taken the directory away in between.
      continue
    with file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        if not wait:
          yield False
          return
        log.info("feature cache: another run writes %s; waiting for it", directory)
        fcntl.flock(file, fcntl.LOCK_EX)
      # Whoever held it may have taken the directory away.
      own = False
      with contextlib.suppress(FileNotFoundError):
        own = os.path.samestat(os.stat(directory / _LOCK), os.fstat(file.fileno()))
      if own:
        yield True
        return


def _is_denied(error):
  """Whether an `OSError` says that something may be read at most: another user's, or on a read-only disk."""
  return isinstance(error, PermissionError) or error.errno == errno.EROFS


def needs(cache, hashes, sizes):
  """Returns (bytes that `cache` lacks, bytes of all, whether it may be written), each content counted once.

  Args:
    cache: `FeatureCache`.
    hashes: [n] content hashes.
    sizes: int [n], bytes of the rows of each.
  """
  hashes, first = np.unique(hashes, return_index=True)
  sizes = sizes[first]
  with cache.locked() as writable:
    missing = cache.missing(hashes)
  if not writable:
    log.info("feature cache: %s may not be written: what it holds is read, nothing is added", cache.directory)
  return int(sizes[missing].sum()), int(sizes.sum()), writable


def evict(directory, missing, total, limit):
  """Makes place for features that are to be added: other caches beside them go, the longest unused first.

  Args:
    directory: of a `FeatureCache`.
    missing: bytes to be added to it.
    total: bytes of all that is needed there, once added; what else it has goes where both do not fit.
    limit: most bytes that it and the caches beside it may take together.

  Returns:
    Whether there is place within `limit` and on the disk.
  """
  if not missing:
    return True
  own, others = _size(directory), _others(directory)
  directory.parent.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(directory.parent).free
  if total > limit or missing > DISK_SHARE * (free + sum(others.values())):
    return False
  if own + missing > limit:
    _forget(directory)
    own, missing, free = 0, total, free + own
  for path in list(others):
    if own + missing + sum(others.values()) <= limit and missing <= DISK_SHARE * free:
      break
    if _removed(path):
      size = others.pop(path)
      free += size
      log.info("feature cache: %.2f GB of older features go", size / 1e9)
  return own + missing + sum(others.values()) <= limit and missing <= DISK_SHARE * free


def _others(directory):
  """Returns {path: bytes} of the caches beside `directory`, the longest unused first."""
  found = []
  for path in directory.parent.glob("*"):
    if path != directory and _NAME.fullmatch(path.name):
      # Another run may take it away meanwhile, and what another user keeps to himself does not count.
      with contextlib.suppress(FileNotFoundError, PermissionError):
        if (path / _LOCK).exists():
          found.append((path.stat().st_mtime, path, _size(path)))
  return {path: size for _, path, size in sorted(found)}


def _size(directory):
  with contextlib.suppress(FileNotFoundError):
    return sum(path.stat().st_size for path in directory.iterdir())
  return 0


def _forget(directory):
  with _lock(directory):
    for path in directory.iterdir():
      # A killed run leaves the directory of a file that was not whole.
      if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
      elif path.name != _LOCK:
        path.unlink(missing_ok=True)


def _removed(directory):
  """Removes a cache and returns whether it has gone: not where another process holds it, or it is another user's."""
  try:
    with _lock(directory, wait=False) as held:
      if held:
        shutil.rmtree(directory, ignore_errors=True)
  except OSError as error:
    if not _is_denied(error):
      raise
  return not directory.exists()


def key(**facts):
  """Returns the directory name of a cache: sha256 hex over everything that decides a feature besides the example.

  The versions of the libraries that compute it are among that.
  """
  facts["versions"] = [
    importlib.metadata.version(name) for name in ("tensorflow", "tensorflow-text", "keras", "keras-hub")
  ]
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def features(cache, hashes, compute):
  """Returns float32 [n, width]: from the cache where it holds, else computed and added.

  Args:
    cache: `FeatureCache`, or None to compute all.
    hashes: [n] content hashes.
    compute: function, int array of positions -> float32 [len, width].
  """
  if cache is None:
    return compute(np.arange(len(hashes)))
  starts, _, positions = compute_missing(cache, hashes, compute)
  return positions[starts].astype(np.float32, copy=False)


def ragged_features(cache, hashes, compute, chunk):
  """Returns (first row of each example, int64 [n]; float32 [rows, width]) of examples with several rows each.

  Args:
    cache, hashes: as in `features`.
    compute: function, int array of positions -> list of float32 [rows, width].
    chunk: examples computed at a time.
  """
  if cache is None:
    parts = [compute(np.arange(i, min(i + chunk, len(hashes)))) for i in range(0, len(hashes), chunk)]
    rows = [row for part in parts for row in part]
    counts = np.array([len(row) for row in rows], np.int64)
    return np.cumsum(counts) - counts, np.concatenate(rows)
  starts, _, positions = compute_missing(cache, hashes, compute, chunk)
  return starts, positions


def compute_missing(cache, hashes, compute, chunk=CHUNK):
  """Computes and adds what the cache lacks; what it has is compared with fresh features first.

  Args:
    cache: `FeatureCache`.
    hashes: [n] content hashes; equal contents are computed once.
    compute: function, int array of positions in `hashes` -> their rows, float32 [positions, width] or [width] each.
    chunk: rows between two commits to disk.

  Returns:
    (first position and number of positions of each example, as of `FeatureCache.find`; `FeatureCache.positions`).
  """
  with cache.locked() as writable:
    starts, counts = cache.find(hashes)
    known = np.flatnonzero(counts > 0)
    if len(known) and not _agrees(cache, known, starts, counts, compute):
      log.warning("feature cache: stored features differ from fresh ones; all are computed again")
      if writable:
        cache.clear()
      known, counts = known[:0], np.full_like(counts, -1)
    missing = np.flatnonzero(counts < 0)
    if len(known):
      log.info(
        "feature cache: %d of %d features read from %s; %d of them agree with fresh ones",
        *(len(known), len(hashes), cache.directory, min(PROBES, len(known))),
      )
    _, first = np.unique(hashes[missing], return_index=True)
    once, computed = missing[np.sort(first)], []
    for start in range(0, len(once), chunk):
      part = once[start : start + chunk]
      log.info("features: computing %d to %d of %d", start + 1, start + len(part), len(once))
      rows = compute(part)
      if writable:
        cache.append(hashes[part], rows)
      else:
        computed += [np.reshape(row, (-1, cache.width)) for row in rows]
    if len(missing) and not writable:
      return _beside(cache.positions(), starts, counts, hashes, once, computed)
    # Finding reads every row for its checksum: not twice where nothing has come.
    return *(cache.find(hashes) if len(missing) else (starts, counts)), cache.positions()


def _beside(positions, starts, counts, hashes, once, computed):
  """Returns what `compute_missing` does where the rows `computed` of the examples at `once` are not stored."""
  own = np.array([len(rows) for rows in computed], np.int64)
  places = dict(zip(hashes[once], zip(len(positions) + np.cumsum(own) - own, own)))
  for i in np.flatnonzero(counts < 0):
    starts[i], counts[i] = places[hashes[i]]
  return starts, counts, np.concatenate([positions, *computed])


def _agrees(cache, known, starts, counts, compute):
  probes = np.unique(known[np.linspace(0, len(known) - 1, min(PROBES, len(known))).astype(int)])
  stored = cache.positions()
  pairs = [
    (stored[start : start + count].astype(np.float32), np.reshape(row, (-1, cache.width)))
    for start, count, row in zip(starts[probes], counts[probes], compute(probes))
  ]
  largest = max(float(np.abs(old).max()) for old, _ in pairs)
  limit = TOLERANCE[cache.dtype.name] * largest
  # Of an infinite one everything would be within the limit.
  return np.isfinite(largest) and all(old.shape == new.shape and np.abs(old - new).max() <= limit for old, new in pairs)
