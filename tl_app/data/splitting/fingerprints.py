"""`Fingerprints`: which examples are equal or nearly equal."""

import dataclasses
import functools

import numpy as np

from tl_app.data import modalities
from tl_app.data.examples import Examples
from tl_app.data.splitting import duplicates
from tl_app.data.splitting.image_fingerprints import ImageFacts
from tl_app.data.splitting.image_index import DecodedImageIndex

# Between the texts of a pair: no text has it once it is normalised.
_BETWEEN = " \n "


@dataclasses.dataclass(frozen=True)
class _Known:
  """A column whose nearly equal inputs are known. Attribute: `near`, as of `Fingerprints`."""

  near: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fingerprints:
  """What tells equal and nearly equal examples.

  Attributes:
    contents: int64 [n], the same for examples of one content.
    columns: {name of the column: `TextFingerprints` or `ImageFingerprints`}.
  """

  contents: np.ndarray
  columns: dict

  @functools.cached_property
  def near(self) -> np.ndarray:
    """int64 [n], the same for examples that are equal or nearly equal in every column."""
    groups = [column.near for column in self.columns.values()]
    return groups[0] if len(groups) == 1 else duplicates.numbered(list(zip(*groups)))

  def take(self, indices: np.ndarray) -> "Fingerprints":
    """Returns what tells the examples at `indices`, int [k]; the texts themselves are not kept."""
    return Fingerprints(self.contents[indices], {"kept": _Known(self.near[indices])})

  @functools.cached_property
  def texts(self) -> list[str] | None:
    """The normalised texts of each example, joined; None if no column is of texts."""
    columns = [column.texts for column in self.columns.values() if hasattr(column, "texts")]
    return [_BETWEEN.join(texts) for texts in zip(*columns)] if columns else None

  @functools.cached_property
  def text_numbers(self) -> dict[str, np.ndarray]:
    """{name of a column of texts: int64 [n], the same for equal and nearly equal texts, in all columns}."""
    columns = {name: column.texts for name, column in self.columns.items() if hasattr(column, "texts")}
    numbers = duplicates.numbered([text for texts in columns.values() for text in texts])
    return dict(zip(columns, np.split(numbers, len(columns)))) if columns else {}

  @property
  def facts(self) -> list[ImageFacts | None] | None:
    """The `ImageFacts` of the image of each example; None if no column is of images."""
    return next((column.facts for column in self.columns.values() if hasattr(column, "facts")), None)


def fingerprint(examples: Examples, index: DecodedImageIndex) -> Fingerprints:
  """Returns the `Fingerprints` of examples.

  Args:
    examples: `Examples`.
    index: `DecodedImageIndex`, which remembers what was found out about images.
  """
  columns = {
    name: modalities.of(column.modality).fingerprint(column.values, examples.hashes, index)
    for name, column in examples.inputs.columns.items()
  }
  return Fingerprints(duplicates.numbered(examples.hashes), columns)
