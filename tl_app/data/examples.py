"""`Examples`: raw examples as the pipeline and the splits see them."""

import dataclasses
import hashlib
import pathlib
import struct
import textwrap

import numpy as np

SPLITS = ("train", "validation", "test")
# Characters of a label in a message.
LONGEST_LABEL = 60


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
  """An encoded image that stays where it is: `feature` of the tf.train.Example at byte `offset` of a TFRecord file."""

  path: str
  offset: int
  feature: str

  def read(self):
    """Returns the bytes.

    Raises:
      OSError, ValueError: the file is gone, or holds something else by now.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    with open(self.path, "rb") as file:
      file.seek(self.offset)
      try:
        # A record is its length in 8 bytes, their checksum in 4, the data, and their checksum in 4.
        (length,) = struct.unpack("<Q4x", file.read(12))
        features = tf.train.Example.FromString(file.read(length)).features.feature
        return features[self.feature].bytes_list.value[0]
      except (struct.error, OverflowError, MemoryError, IndexError, DecodeError):
        raise ValueError(f"{self.path} has changed since its records were counted") from None


@dataclasses.dataclass(frozen=True)
class AugmentedImage:
  """An image with one fixed random change.

  Attributes:
    image: as `Examples.inputs` holds it.
    change: function of float32 [height, width, 3] and `number`, int64 scalar, in the graph.
    number: tells this change from others.
  """

  image: object
  change: object
  number: int


@dataclasses.dataclass(frozen=True)
class Examples:
  """Raw examples of one data set, in a fixed order. Images are places or encoded bytes: pixels are never held.

  Attributes:
    modality: "text" or "image".
    ids: object array [n] of str; unique; says where the example came from ("train.tsv:17", "daisy/1.jpg").
    inputs: object array [n]: str (the text), or a tuple of two (a pair of texts), or for images str (a file path),
      `Record`, or bytes (encoded JPEG/PNG).
    labels: object array [n] of str, the class name.
    hashes: object array [n] of str, sha256 hex of the content (UTF-8 text, or encoded image bytes).
    splits: object array [n] of "train", "validation", "test" where the data set gives a split, else "".
    skipped: list of {"id", "reason"} of the examples left out by --on_bad_example=skip.
    source: how the user named the data set.
    notes: lines worth telling the user (files that were ignored, splits that were replaced).
    groups: object array [n] of str, the cells of --group_column, or None.
    times: object array [n] of str, the cells of --time_column, or None.
    classes: object array [n] of tuples of str, what a split is stratified by: the label alone, unless the task says
      otherwise.
  """

  modality: str
  ids: np.ndarray
  inputs: np.ndarray
  labels: np.ndarray
  hashes: np.ndarray
  splits: np.ndarray
  skipped: list
  source: str
  notes: list = dataclasses.field(default_factory=list)
  groups: np.ndarray | None = None
  times: np.ndarray | None = None
  classes: np.ndarray | None = None

  def __post_init__(self):
    if self.classes is None:
      object.__setattr__(self, "classes", strings([(label,) for label in self.labels]))

  def __len__(self):
    return len(self.ids)

  def take(self, indices):
    """Returns the examples at `indices` (int array or bool mask [n]), in that order."""
    names = ("ids", "inputs", "labels", "hashes", "splits", "classes")
    columns = {name: getattr(self, name)[indices] for name in names}
    columns |= {name: getattr(self, name)[indices] for name in ("groups", "times") if getattr(self, name) is not None}
    return dataclasses.replace(self, **columns)


def encoded(image):
  """Returns the bytes of an image as `Examples.inputs` holds it.

  Raises:
    OSError, ValueError: it cannot be read.
  """
  if isinstance(image, bytes):
    return image
  return image.read() if isinstance(image, Record) else pathlib.Path(image).read_bytes()


def content_hash(parts):
  """Returns the sha256 hex of what an example holds, a sequence of bytes: of a pair both texts."""
  # No text holds this byte, so no two pairs have the same content.
  return hashlib.sha256(b"\xff".join(parts)).hexdigest()


def texts_of(value):
  """Returns the texts of one of `Examples.inputs`, a tuple of str: the text, or both of a pair."""
  return value if isinstance(value, tuple) else (value,)


def brief(label):
  """Returns a label cell as messages show it: of the tags of a long text the first ones."""
  return textwrap.shorten(label, LONGEST_LABEL, placeholder=" ..") if len(label) > LONGEST_LABEL else label


def strings(values):
  """Returns an object array [n] of the values of an iterable, whatever their number: str, bytes, or tuples."""
  values = list(values)
  return np.fromiter(values, dtype=object, count=len(values))
