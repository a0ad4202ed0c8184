"""Texts on disk: written once, then read by position, in memory that does not grow with their number."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from tl_app.data.corpus.order import mixed

# A longer text is divided at white space into passages, so that a document is read to its end. 2,000 characters of
# English are about 450 tokens of BERT, which reads 512.
PASSAGE = 2000
_INDEX = np.dtype(
  [("offset", np.int64), ("size", np.int32), ("held_out", np.bool_), ("digest", np.uint64), ("text", np.int64)]
)
# Entries of the index that are looked at together.
_CHUNK = 1 << 20


class TextWriter:
  """Writes texts into a directory; `finish` closes the files.

  Attributes:
    texts: number of texts so far.
    passages: number of passages so far.
  """

  def __init__(self, directory: pathlib.Path):
    """Opens the files in an existing directory."""
    self._data, self._index = ((directory / name).open("wb") for name in ("texts.bin", "index.bin"))
    self._entries = []
    self._offset = self.texts = self.passages = 0

  def add(self, text: str, held_out: bool = False) -> None:
    """Adds a text, not empty.

    Args:
      text: the text.
      held_out: whether a data set gives it for the held-out part.
    """
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    for passage in passages(text):
      data = passage.encode()
      self._data.write(data)
      self._entries.append((self._offset, len(data), held_out, digest, self.texts))
      self._offset += len(data)
      self.passages += 1
    self.texts += 1
    if len(self._entries) > 10_000:
      self._flush()

  def finish(self) -> None:
    """Closes the files."""
    self._flush()
    self._data.close()
    self._index.close()

  def _flush(self):
    np.array(self._entries, _INDEX).tofile(self._index)
    self._entries = []


def passages(text: str):
  """Yields the parts of a text of at most `PASSAGE` characters, cut at white space where there is some."""
  start = 0
  while len(text) - start > PASSAGE:
    end = max(text.rfind(" ", start, start + PASSAGE), text.rfind("\n", start, start + PASSAGE))
    end = end if end > start else start + PASSAGE
    if text[start:end].strip():
      yield text[start:end]
    start = end
  if text[start:].strip():
    yield text[start:]


@dataclasses.dataclass(frozen=True)
class TextRows:
  """Some of the texts of a directory.

  Attributes:
    index: the entries of all texts, [all].
    data: uint8, the bytes of all texts.
    chosen: int64 [n], positions in `index`.
  """

  index: np.ndarray
  data: np.ndarray
  chosen: np.ndarray

  def __len__(self):
    return len(self.chosen)

  def read(self, positions: np.ndarray) -> np.ndarray:
    """Returns the UTF-8 texts at int64 [k] positions, object [k] of bytes."""
    entries = self.index[self.chosen[positions]]
    found = np.empty(len(entries), object)
    found[:] = [self.data[start : start + size].tobytes() for start, size in zip(entries["offset"], entries["size"])]
    return found

  def sizes(self, positions: np.ndarray) -> np.ndarray:
    """Returns the sizes in bytes, int32 [k]."""
    return self.index["size"][self.chosen[positions]]

  def digest(self) -> str:
    """Returns the sha256 hex of the contents of all texts of the directory, in order."""
    found = hashlib.sha256()
    for start in range(0, len(self.index), _CHUNK):
      found.update(np.ascontiguousarray(self.index[start : start + _CHUNK]).tobytes())
    return found.hexdigest()

  def take(self, positions: np.ndarray) -> "TextRows":
    """Returns the rows at the positions, int64 [k]."""
    return dataclasses.replace(self, chosen=self.chosen[positions])


def divide(directory: pathlib.Path, fraction: float, seed: int) -> tuple[TextRows, TextRows, int]:
  """Divides the texts of a directory: equal texts count once, and the content decides which are held out.

  The passages of a text stay together.

  Args:
    directory: in which a `TextWriter` has written; it gets the files of the parts.
    fraction: share of the held-out texts, unless a data set gives them.
    seed: of the division.

  Returns:
    (training part, held-out part, number of texts that repeat an earlier one).
  """
  index = np.memmap(directory / "index.bin", _INDEX, "r")
  first = np.memmap(directory / "first.bin", np.bool_, "w+", shape=(len(index),))
  repeats = _mark_first(index, first)
  given = any(index["held_out"][start : start + _CHUNK].any() for start in range(0, len(index), _CHUNK))
  limit, key = np.uint64(min(fraction, 1.0) * (2**64 - 1025)), np.uint64((seed * 0x9E3779B97F4A7C15 + 1) % 2**64)
  with open(directory / "train.bin", "wb") as train, open(directory / "held_out.bin", "wb") as held_out:
    for start in range(0, len(index), _CHUNK):
      part, keep = index[start : start + _CHUNK], first[start : start + _CHUNK]
      out = part["held_out"] if given else mixed(part["digest"] ^ key) < limit
      for file, mask in ((train, keep & ~out), (held_out, keep & out)):
        (start + np.flatnonzero(mask)).astype(np.int64).tofile(file)
  data = np.memmap(directory / "texts.bin", np.uint8, "r")
  train, held_out = (TextRows(index, data, _mapped(directory / name)) for name in ("train.bin", "held_out.bin"))
  return train, held_out, repeats


def _mapped(path):
  return np.memmap(path, np.int64, "r") if path.stat().st_size else np.zeros(0, np.int64)


def _mark_first(index, first):
  """Sets `first` at the passages of texts that do not repeat an earlier one; returns the number of the others.

  The digests are looked at in groups, so that memory holds about `_CHUNK` of them.
  """
  groups, repeats = np.uint64(-(-len(index) // _CHUNK)), 0
  for group in range(int(groups)):
    places = np.concatenate(
      [
        start + np.flatnonzero(index["digest"][start : start + _CHUNK] % groups == group)
        for start in range(0, len(index), _CHUNK)
      ]
    )
    _, earliest, inverse = np.unique(index["digest"][places], return_index=True, return_inverse=True)
    texts = index["text"][places]
    own = texts[earliest][inverse] == texts
    first[places] = own
    repeats += len(np.unique(texts[~own]))
  return repeats
