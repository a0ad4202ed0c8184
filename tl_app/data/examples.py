"""`Examples`: raw examples as the pipeline and the splits see them."""

import dataclasses

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Examples:
  """Raw examples of one data set, in a fixed order. Images are paths or encoded bytes: pixels are never held.

  Attributes:
    modality: "text" or "image".
    ids: object array [n] of str; unique; says where the example came from ("train.tsv:17", "daisy/1.jpg").
    inputs: object array [n]: str (the text), or a tuple of two (a pair of texts), or for images either str (a file
      path) or bytes (encoded JPEG/PNG).
    labels: object array [n] of str, the class name.
    hashes: object array [n] of str, sha256 hex of the content (UTF-8 text, or encoded image bytes).
    splits: object array [n] of "train", "validation", "test" where the data set gives a split, else "".
    skipped: list of {"id", "reason"} of the examples left out by --on_bad_example=skip.
    source: how the user named the data set.
    notes: lines worth telling the user (files that were ignored, splits that were replaced).
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
    return dataclasses.replace(self, **columns)


def strings(values):
  """Returns an object array [n] of the values, whatever their number: str, bytes, or tuples."""
  return np.fromiter(values, dtype=object, count=len(values))
