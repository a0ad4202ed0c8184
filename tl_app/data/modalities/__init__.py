"""The modalities that inputs can have, one record each; `of` looks one up by its name."""

from tl_app.data.modalities.base import Modality
from tl_app.data.modalities.image import Image
from tl_app.data.modalities.text import Text

MODALITIES = {modality.name: modality for modality in (Text(), Image())}


def of(name: str) -> Modality:
  """Returns the `Modality` of a name.

  Raises:
    ValueError: there is no such modality.
  """
  if name not in MODALITIES:
    raise ValueError(f"unknown modality {name!r}: known are {', '.join(MODALITIES)}")
  return MODALITIES[name]


def other_flags(name: str) -> list[str]:
  """Returns the flags that concern only other modalities than the one with this name."""
  own = of(name)
  return [flag for modality in MODALITIES.values() if modality is not own for flag in modality.flags]
