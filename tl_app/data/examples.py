"""`Examples`: raw examples as the pipeline and the splits see them."""

import dataclasses
import hashlib
import pathlib
import struct
from collections.abc import Iterable

import numpy as np

from tl_app import files

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
    image: as a `Column` holds it.
    change: function of float32 [height, width, 3] and `number`, int64 scalar, in the graph.
    number: tells this change from others.
  """

  image: object
  change: object
  number: int


@dataclasses.dataclass(frozen=True)
class Column:
  """One input of every example.

  Attributes:
    values: object array [n]. A text is a str; an image is a str (the path of a file), a `Record`, bytes (encoded), or
      an `AugmentedImage`. Pixels are never held.
    modality: name of the `Modality`.
  """

  values: np.ndarray
  modality: str


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The inputs of n examples: named columns of equal length. A pair of texts is two columns.

  `inputs[indices]` are the inputs at an int array, a bool mask, or a slice.

  Attributes:
    columns: {name: `Column`}. A name is that of the flag that names the column in a table, without "_column": "text",
      "text_pair", "image".
  """

  columns: dict[str, Column]

  @classmethod
  def of(cls, modality: str, values: Iterable) -> "Inputs":
    """Returns the inputs of examples with one input each."""
    return cls({modality: Column(strings(values), modality)})

  @classmethod
  def from_rows(cls, modalities: dict[str, str], rows: Iterable[tuple]) -> "Inputs":
    """Returns the inputs of rows, each a tuple with a value for each of the columns {name: modality}."""
    rows = list(rows)
    names = enumerate(modalities.items())
    return cls({name: Column(strings(row[place] for row in rows), modality) for place, (name, modality) in names})

  def __len__(self):
    return len(next(iter(self.columns.values())).values)

  def __getitem__(self, indices) -> "Inputs":
    return Inputs({name: Column(column.values[indices], column.modality) for name, column in self.columns.items()})

  @property
  def modalities(self) -> dict[str, str]:
    """{name of the column: name of its modality}."""
    return {name: column.modality for name, column in self.columns.items()}

  @property
  def modality(self) -> str:
    """The name of the modality that all columns have.

    Raises:
      ValueError: they have several.
    """
    (name,) = set(self.modalities.values())
    return name

  def array(self) -> np.ndarray:
    """Returns the values as object array [n], or [n, columns] if there are several columns."""
    values = [column.values for column in self.columns.values()]
    return values[0] if len(values) == 1 else np.stack(values, axis=1)

  def rows(self) -> list[tuple]:
    """Returns a tuple for each example, with a value for each column."""
    return list(zip(*(column.values for column in self.columns.values())))

  def joined(self, other: "Inputs") -> "Inputs":
    """Returns these inputs and then those of `other`, which has the same columns."""
    pairs = {name: (column, other.columns[name]) for name, column in self.columns.items()}
    return Inputs(
      {name: Column(np.concatenate([one.values, two.values]), one.modality) for name, (one, two) in pairs.items()}
    )


@dataclasses.dataclass(frozen=True)
class Examples:
  """Raw examples of one data set, in a fixed order.

  Attributes:
    ids: object array [n] of str; unique; says where the example came from ("train.tsv:17", "daisy/1.jpg").
    inputs: `Inputs` of the n examples.
    labels: object array [n] of str, the class name.
    hashes: object array [n] of str, sha256 hex of the content of all columns (UTF-8 text, or encoded image bytes).
    splits: object array [n] of "train", "validation", "test" where the data set gives a split, else "".
    skipped: list of {"id", "reason"} of the examples that --on_bad_example=skip has removed.
    source: how the user named the data set.
    notes: lines worth telling the user (files that were ignored, splits that were replaced).
    groups: object array [n] of str, the cells of --group_column, or None.
    times: object array [n] of str, the cells of --time_column, or None.
    metadata: {name: object array [n] of str} of --slice_columns, which no model reads; "" is an empty cell.
    corrections: {"file", "sha256", "relabelled", "dropped"} of --corrections, or None.
    classes: object array [n] of tuples of str, what a split is stratified by: the label alone, unless the task says
      otherwise.
  """

  ids: np.ndarray
  inputs: Inputs
  labels: np.ndarray
  hashes: np.ndarray
  splits: np.ndarray
  skipped: list
  source: str
  notes: list = dataclasses.field(default_factory=list)
  groups: np.ndarray | None = None
  times: np.ndarray | None = None
  metadata: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  corrections: dict | None = None
  classes: np.ndarray | None = None

  def __post_init__(self):
    if self.classes is None:
      object.__setattr__(self, "classes", strings([(label,) for label in self.labels]))

  def __len__(self):
    return len(self.ids)

  @property
  def modality(self) -> str:
    """The name of the modality of the inputs, see `Inputs.modality`."""
    return self.inputs.modality

  def single_texts(self) -> np.ndarray | None:
    """Returns the texts, object array [n] of str; None where the inputs are images or pairs."""
    return self.inputs.array() if list(self.inputs.modalities.values()) == ["text"] else None

  def take(self, indices):
    """Returns the examples at `indices` (int array or bool mask [n]), in that order."""
    names = ("ids", "inputs", "labels", "hashes", "splits", "classes")
    taken = {name: getattr(self, name)[indices] for name in names}
    taken |= {name: getattr(self, name)[indices] for name in ("groups", "times") if getattr(self, name) is not None}
    metadata = {name: values[indices] for name, values in self.metadata.items()}
    return dataclasses.replace(self, metadata=metadata, **taken)


def encoded(image) -> bytes:
  """Returns the bytes of an image as a `Column` holds it.

  Raises:
    OSError, ValueError: it cannot be read.
  """
  if isinstance(image, bytes):
    return image
  if isinstance(image, Record):
    return image.read()
  files.require_regular(image)
  return pathlib.Path(image).read_bytes()


def content_hash(contents: Iterable[bytes]) -> str:
  """Returns the sha256 hex of the content of an example: the bytes of each column."""
  # No UTF-8 text holds this byte, so no two pairs have the same content.
  return hashlib.sha256(b"\xff".join(contents)).hexdigest()


def brief(label: str) -> str:
  """Returns a label as messages show it, shortened to `LONGEST_LABEL` characters."""
  return f"{' '.join(label.split())[: LONGEST_LABEL - 3].rstrip()} .." if len(label) > LONGEST_LABEL else label


def strings(values: Iterable) -> np.ndarray:
  """Returns an object array [n] of values, which may be tuples."""
  values = list(values)
  return np.fromiter(values, dtype=object, count=len(values))
