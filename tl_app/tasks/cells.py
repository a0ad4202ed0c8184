"""Label cells: what a reader gives as text, and what is in it."""

import json

from tl_app.errors import UserError


def listed(cell):
  """Returns the list of str of a cell that is a JSON list (a list column, or several columns), else None."""
  if not cell.startswith("["):
    return None
  try:
    values = json.loads(cell)
  except ValueError:
    return None
  return [value if isinstance(value, str) else json.dumps(value) for value in values]


def unknown(label, names):
  """Returns the `UserError` about a label that the model does not know."""
  return UserError(f"the label {label!r} is unknown; the model knows: {', '.join(names[:20])}")
