"""What is wrong with the value of one field."""

import math

from tl_app.config.names import renamed_value
from tl_app.config.settings import FIELDS, TYPES


def fault(name: str, value) -> str:
  """Returns what is wrong with the value of one field, or ""."""
  meta, kind = FIELDS[name].metadata, TYPES[name]
  if meta["word"] and value == meta["word"]:
    return ""
  if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
    return f"--{name}={value!r} is not of type {kind.__name__}"
  if meta["choices"] and value not in meta["choices"]:
    renamed = renamed_value(name, str(value))
    if renamed:
      return f"--{name}={value} {renamed}"
    return f"--{name}={value} is not one of: {', '.join(meta['choices'])}"
  if isinstance(value, float) and not math.isfinite(value):
    return f"--{name}={value} is not a number"
  if meta["low"] is not None and not value >= meta["low"]:
    return f"--{name}={value} is below {meta['low']}"
  if meta["high"] is not None and not value <= meta["high"]:
    return f"--{name}={value} is above {meta['high']}"
  return ""
