"""The two errors that end a run early, and the name that a message proposes.

Both errors are printed as one line, without a traceback.
"""

import difflib
import re
from collections.abc import Iterable

# Share of letters that a name has in common with one that `suggestion` proposes for it.
NEAR = 0.74


class _OneLine(Exception):
  def _render_traceback_(self):
    """Returns the lines that a notebook shows."""
    return [f"tl_app.{type(self).__name__}: {self}"]


class UserError(_OneLine):
  """The user must change something (exit code 2). The message is one line: what is wrong, and what to do."""


class RunFailed(_OneLine):
  """The run itself failed (exit code 1): NaN, failed export check, failed audit. The message is one line."""


def suggestion(name: str, known: Iterable[str]) -> str:
  """Returns `"; did you mean X?"` for the nearest known name, or an empty string if none is near.

  Near are a spelling with about one letter in four different, a name that has `name` as one of its words, and a name
  that it begins, whatever their case: "texts", "review_text" and "Text" for "text", and not "date".
  """
  wanted = name.casefold()
  matcher, ratios = difflib.SequenceMatcher(b=wanted), {}
  for other in filter(None, known if name else ()):
    matcher.set_seq1(other.casefold())
    ratio = matcher.ratio()
    if ratio >= NEAR or _have_a_word_in_common(wanted, other.casefold()):
      ratios[other] = ratio
  return f"; did you mean {max(ratios, key=ratios.__getitem__)}?" if ratios else ""


def _have_a_word_in_common(name, other):
  one, two = (set(re.split(r"[\W_]+", word)) for word in (name, other))
  begins = min(len(name), len(other)) > 2 and (name.startswith(other) or other.startswith(name))
  return begins or name in two or other in one
