"""The label review: test and training labels that are probably wrong."""

import csv

from tl_app.errors import UserError
from tl_app.report.sections.section import Section

# Rows of each split.
_SHOWN = 15
_TITLES = {"test": "Test split", "validation": "Validation split", "train": "Training split"}


def _context(facts):
  review, path = facts.metrics.get("label_review"), facts.paths.label_review
  if not review or not path.exists():
    return None
  try:
    with open(path, newline="", encoding="utf-8") as file:
      rows = list(csv.DictReader(file))
    by_split = {split: [row for row in rows if row["split"] == split] for split in _TITLES}
  except (KeyError, ValueError, csv.Error):
    raise UserError(f"{path} is damaged: remove it, or run the training again") from None
  shown = {split: found[:_SHOWN] for split, found in by_split.items() if found}
  previews = facts.previews({row["id"] for found in shown.values() for row in found})
  return {
    "reviewed": [
      {"title": _TITLES[split], "rows": found, "count": len(by_split[split])} for split, found in shown.items()
    ],
    "inputs": previews,
    "file": path.name,
    "not_reviewed": review.get("not_reviewed", {}),
  }


def _answers(facts):
  review = facts.metrics.get("label_review", {})
  number = review.get("test", 0)
  if not number:
    return {}
  labels = "1 test label" if number == 1 else f"{number:,} test labels"
  advice = "review the surest first, because the test labels decide every number on this page."
  return {"next": [f"{labels} may be wrong: an answer of high probability contradicts each; {advice}"]}


SECTION = Section("labels", "Label review", _context, _answers)
