"""Which classes were taken for which, with the examples behind each cell."""

from tl_app.report import confusions, examples_by_cell
from tl_app.report.sections.section import Section

_MAX_CONFUSIONS = 25
# Confusions on the first screen, and the examples that one must have.
_MAX_NAMED = 2
_FEWEST_NAMED = 2


def _context(facts):
  test = facts.test
  if not test.get("confusion_matrix"):
    return None
  names, _ = confusions.matrix(test)
  frequent = confusions.most_frequent(test)[:_MAX_CONFUSIONS]
  shown = 0 < len(names) <= confusions.MAX_MATRIX_CLASSES
  listed = {(row["label"], row["prediction"]) for row in frequent}
  cells = _cells(facts, names, None if shown else listed)
  anchors = {(cell["label"], cell["prediction"]): cell["anchor"] for cell in cells}
  return {
    "matrix": _matrix(test) if shown else None,
    "confusions": frequent,
    "cells": cells,
    "anchors": anchors,
  }


def _matrix(test):
  """Returns {"names", "rows"} of the confusion matrix; a cell is (count, share of its row)."""
  names, counts = confusions.matrix(test)
  cells = [list(zip(*row)) for row in zip(counts.tolist(), confusions.shares(counts).tolist())]
  return {"names": names, "rows": list(zip(names, cells))}


def _cells(facts, names, wanted):
  """Returns {"label", "prediction", "anchor", "rows"} of each cell with examples, which have a "preview".

  Args:
    facts: the `RunFacts`.
    names: of the classes.
    wanted: set of the (label, prediction) whose examples are shown, or None for all.
  """
  if not (facts.examples and facts.has_predictions):
    return []
  position = {name: number for number, name in enumerate(names)}
  rows = facts.predictions()
  chosen = examples_by_cell.choose(row for row in rows if not wanted or (row["label"], row["prediction"]) in wanted)
  previews = facts.previews({row["id"] for cell in chosen.values() for row in cell})
  return [
    {
      "label": label,
      "prediction": prediction,
      "anchor": f"cell-{position[label]}-{position[prediction]}",
      "rows": [{"id": row["id"], "score": float(row["score"]), "preview": previews[row["id"]]} for row in cell],
    }
    for (label, prediction), cell in sorted(chosen.items(), key=lambda item: [position[name] for name in item[0]])
  ]


def _answers(facts):
  test = facts.test
  support = {name: row["support"] for name, row in test.get("per_class", {}).items()}
  named = [
    f"“{row['label']}” is answered as “{row['prediction']}” ({row['count']:,} of {support[row['label']]:,})"
    for row in confusions.most_frequent(test)[:_MAX_NAMED]
    if row["count"] >= _FEWEST_NAMED
  ]
  return {"failures": [f"Most often confused: {', '.join(named)}."]} if named else {}


SECTION = Section("confusions", "Confusions", _context, _answers)
