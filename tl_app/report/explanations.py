"""Explanations for people: lines of the terminal, a page of their own, and a section of the report."""

import base64
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import PIL.Image

from tl_app import files
from tl_app.report import formatting, rendering

JSON, PAGE = "explanations.json", "explanations.html"
# The file in `Workdir.explanations` that the report shows.
OF_REPORT = "report.json"
TOP = 10
METHOD_TITLES = {
  "grad_cam": "Grad-CAM",
  "integrated_gradients": "integrated gradients",
  "occlusion": "occlusion",
}
# Colours of the evidence for and against an answer, over a picture in grey.
_FOR, _AGAINST = (0, 102, 255), (255, 96, 0)
# Least opacity that is worth drawing, and the largest.
_FAINT, _STRONG = 0.04, 0.75


def write(path: pathlib.Path, result: Mapping, top: int) -> None:
  """Writes the page of a result, which loads nothing.

  Args:
    path: of the page.
    result: content of explanations.json.
    top: number of words to list for each answer.
  """
  files.write_text(path, page(result, top))


def page(result: Mapping, top: int = TOP) -> str:
  """Returns the page of a result, see `write`."""
  return rendering.environment().get_template(PAGE).render(explained=shown(result, top))


def shown(result: Mapping, top: int) -> dict:
  """Returns the context of `_explanations.html`: the result with the colours of words and of heat maps."""
  groups = [
    {**group, "entries": [_shown_entry(entry, top) for entry in group["entries"]]} for group in result["groups"]
  ]
  return {**result, "groups": groups, "methods": METHOD_TITLES}


def lines(result: Mapping, top: int) -> str:
  """Returns the lines of a result for the terminal, a few for each answer."""
  return "\n".join(
    line for group in result["groups"] for entry in group["entries"] for line in _lines(entry, result, top)
  )


def _lines(entry, result, top):
  if "error" in entry:
    yield f"{entry['id']}: {entry['error']}"
    return
  for found in entry["explanations"]:
    of = f" {found['entity']!r}" if "entity" in found else ""
    yield (
      f"{entry['id']}: {found['name']}{of} {formatting.readable(found['value'])}, {result['score_title']} "
      f"{formatting.readable(found['score'])}, by {_method(found)}"
    )
    if "words" in found:
      yield "  " + ", ".join(f"{part['text']} {part['score']:+.2f}" for part in strongest(found["words"], top))
    else:
      yield f"  {_place(found['heat'])}"
  for near in entry.get("similar", ()):
    preview = near.get("text", "")
    yield f"  similar: {near['label']}, {near['similarity']:.2f}, {near['id']} {preview}".rstrip()


def _method(found):
  title = METHOD_TITLES[found["method"]]
  if "completeness_error" not in found:
    return title
  return f"{title}, completeness error {100 * found['completeness_error']:.2g} %"


def _place(heat):
  """Returns where a heat map is largest, in words."""
  heat = np.array(heat)
  row, column = np.unravel_index(heat.argmax(), heat.shape)
  down, right = (f"{100 * (index + 0.5) / size:.0f} %" for index, size in zip((row, column), heat.shape))
  return f"strongest at {right} from the left and {down} from the top"


def strongest(words: Iterable[Mapping], top: int) -> list[Mapping]:
  """Returns the words of a text with the scores furthest from 0, the furthest first."""
  read = [part for part in words if part["score"] is not None]
  return sorted(read, key=lambda part: -abs(part["score"]))[:top]


def _shown_entry(entry, top):
  if "error" in entry:
    return entry
  found = [
    explanation
    | (
      {"marked": marked(entry["inputs"], explanation["words"]), "strongest": strongest(explanation["words"], top)}
      if "words" in explanation
      else {"overlay": overlay(explanation["heat"])}
    )
    for explanation in entry["explanations"]
  ]
  return {**entry, "explanations": found}


def marked(texts: Sequence[str], words: Sequence[Mapping]) -> list[list[dict]]:
  """Returns the pieces of each text, in order: {"text", "kind", "share", "score"}.

  "kind" is "for", "against", "unread", or "" between the words; "share" is the score as a share of the largest one.
  """
  largest = max((abs(part["score"]) for part in words if part["score"] is not None), default=0.0) or 1.0
  columns = []
  for column, text in enumerate(texts):
    pieces, end = [], 0
    for part in (part for part in words if part["column"] == column):
      pieces.append({"text": text[end : part["start"]], "kind": ""})
      pieces.append({"text": text[part["start"] : part["end"]], **_mark(part["score"], largest)})
      end = part["end"]
    columns.append([piece for piece in [*pieces, {"text": text[end:], "kind": ""}] if piece["text"]])
  return columns


def _mark(score, largest):
  if score is None:
    return {"kind": "unread"}
  share = abs(score) / largest
  return {"kind": ("for" if score > 0 else "against") if share > _FAINT else "", "share": share, "score": score}


def overlay(heat: Sequence[Sequence[float]]) -> str:
  """Returns the data URI of a PNG that lies over the picture: blue speaks for the answer, orange against it."""
  values = np.array(heat, np.float64)
  shares = values / (np.abs(values).max() or 1.0)
  pixels = np.zeros((*shares.shape, 4), np.uint8)
  pixels[..., :3] = np.where(shares[..., None] >= 0, _FOR, _AGAINST)
  pixels[..., 3] = np.round(255 * _STRONG * np.abs(shares))
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels).save(buffer, "PNG")
  return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
