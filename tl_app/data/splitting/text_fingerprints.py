"""Texts that are nearly equal: those that are the same once they are normalised."""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable

import numpy as np

from tl_app.data.splitting import duplicates

_APOSTROPHES = "'’‘`´"


@dataclasses.dataclass(frozen=True)
class TextFingerprints:
  """The fingerprints of a column of texts.

  Attributes:
    texts: list [n] of normalised texts.
  """

  texts: list[str]

  @functools.cached_property
  def near(self) -> np.ndarray:
    """int64 [n], the same for texts that are equal or nearly equal."""
    return duplicates.numbered(self.texts)


def fingerprint(texts: Iterable[str]) -> TextFingerprints:
  """Returns the `TextFingerprints` of texts."""
  return TextFingerprints([normalized(text) for text in texts])


def normalized(text: str) -> str:
  """Returns a text in NFKC without case, punctuation and runs of white space; the text itself if nothing is left.

  Letters with their diacritics, numbers and symbols (emoji) stay.
  """
  return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_KEPT).split()) or text


class _Kept(dict):
  """A table for `str.translate`: None of an apostrophe, a space for punctuation and controls, else the character."""

  def __missing__(self, code):
    character = chr(code)
    separates = unicodedata.category(character)[0] in "PZC"
    self[code] = None if character in _APOSTROPHES else " " if separates else character
    return self[code]


_KEPT = _Kept()
