"""Frozen features on disk: computed once per example content, appended crash-safe, checked on the way back."""

import contextlib
import fcntl
import hashlib
import json
import logging
import pathlib
import zlib

import numpy as np

log = logging.getLogger(__name__)

# Rows handed to the network between two commits to disk: what a killed run loses at most.
CHUNK = 2048
# Fresh and stored features of the same examples may differ by float32 rounding of another batch shape, not by more.
TOLERANCE = 1e-3
PROBES = 8


class FeatureCache:
  """Rows of float32 [width], found by the content of their example.

  Two files: `rows.f32` (rows back to back) and `index.jsonl` (one {"hash", "crc"} a row). The row is written first, so
  a killed run leaves at most a row without index, which is cut off.
  """

  def __init__(self, directory, width):
    self.directory = pathlib.Path(directory)
    self.width = width
    self.directory.mkdir(parents=True, exist_ok=True)
    self._rows = self.directory / "rows.f32"
    self._index = self.directory / "index.jsonl"

  @contextlib.contextmanager
  def locked(self):
    """One process at a time computes and appends; the others wait and then find the rows."""
    with open(self.directory / "lock", "w") as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      self._cut_off()
      yield

  def read(self, hashes):
    """Returns (float32 [n, width], bool [n]: which are valid). A row whose checksum does not hold is not valid."""
    index = self._load_index()
    stored = self._mapped(len(index))
    position = {key: (row, crc) for row, (key, crc) in enumerate(index)}
    features = np.zeros((len(hashes), self.width), np.float32)
    valid = np.zeros(len(hashes), bool)
    for i, key in enumerate(hashes):
      row, crc = position.get(key, (None, None))
      if row is not None and zlib.crc32(stored[row].tobytes()) == crc:
        features[i], valid[i] = stored[row], True
    return features, valid

  def append(self, hashes, features):
    """Adds rows, float32 [n, width], while `locked`. A later row of the same content replaces the earlier one."""
    features = np.ascontiguousarray(features, np.float32)
    with open(self._rows, "ab") as file:
      file.write(features.tobytes())
    lines = [json.dumps({"hash": key, "crc": zlib.crc32(row.tobytes())}) for key, row in zip(hashes, features)]
    with open(self._index, "a", encoding="utf-8") as file:
      file.write("".join(line + "\n" for line in lines))

  def clear(self):
    """Forgets every row."""
    self._rows.unlink(missing_ok=True)
    self._index.unlink(missing_ok=True)

  def _load_index(self):
    if not self._index.exists():
      return []
    entries = []
    for line in self._index.read_text(encoding="utf-8").split("\n")[:-1]:
      try:
        entry = json.loads(line)
        entries.append((entry["hash"], entry["crc"]))
      except (json.JSONDecodeError, KeyError, TypeError):
        break
    rows = self._rows.stat().st_size // (4 * self.width) if self._rows.exists() else 0
    return entries[:rows]

  def _cut_off(self):
    entries = self._load_index()
    size = len(entries) * 4 * self.width
    text = "".join(json.dumps({"hash": key, "crc": crc}) + "\n" for key, crc in entries)
    if not self._index.exists() or self._index.stat().st_size != len(text):
      self._index.write_text(text, encoding="utf-8")
    if self._rows.exists() and self._rows.stat().st_size != size:
      with open(self._rows, "r+b") as file:
        file.truncate(size)

  def _mapped(self, rows):
    if not rows:
      return np.zeros((0, self.width), np.float32)
    return np.memmap(self._rows, np.float32, "r", shape=(rows, self.width))


def key(**facts):
  """Returns the directory name of a cache: sha256 hex over everything that decides a feature besides the example."""
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
  with cache.locked():
    rows, valid = cache.read(hashes)
    known = np.flatnonzero(valid)
    if len(known) and not _agrees(rows, known, compute):
      log.warning("feature cache: stored features differ from fresh ones; all are computed again")
      cache.clear()
      valid[:] = False
    missing = np.flatnonzero(~valid)
    if len(known):
      log.info(
        "feature cache: %d of %d features read from %s", len(hashes) - len(missing), len(hashes), cache.directory
      )
    for start in range(0, len(missing), CHUNK):
      chunk = missing[start : start + CHUNK]
      log.info("features: computing %d to %d of %d", start + 1, start + len(chunk), len(missing))
      rows[chunk] = compute(chunk)
      cache.append([hashes[i] for i in chunk], rows[chunk])
  return rows


def _agrees(rows, known, compute):
  probes = known[np.linspace(0, len(known) - 1, min(PROBES, len(known))).astype(int)]
  scale = max(1.0, float(np.abs(rows[probes]).max()))
  return bool(np.abs(compute(probes) - rows[probes]).max() <= TOLERANCE * scale)
