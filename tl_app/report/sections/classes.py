"""The metrics of each class."""

from collections.abc import Mapping

import numpy as np

from tl_app.report import confusions
from tl_app.report.sections.section import Section
from tl_app.tasks import statistics

# A class with a higher F1 needs no more examples.
_GOOD = 0.9


def _context(facts):
  test = facts.test
  rows = _rows(test)
  found = {
    "classes": rows,
    "without_examples": statistics.classes_without_examples(test),
    "macro_f1_note": statistics.MACRO_F1_NOTE if "macro_f1" in test else "",
  }
  return found if rows else None


def _rows(test):
  """Returns the rows of the table, lowest F1 first, each with its most frequent confusion."""
  confused_with = {}
  for confusion in reversed(confusions.most_frequent(test)):
    confused_with[confusion["label"]] = confusion
  return [{"name": name, "confused_with": confused_with.get(name)} | values for name, values in by_f1(test)]


def by_f1(test: Mapping) -> list[tuple[str, dict]]:
  """Returns (name, metrics) of each class of the metrics of a split, lowest F1 first.

  Classes without an example come last: they have no precision, recall and F1.
  """
  unknown, per_class = statistics.classes_without_examples(test), test.get("per_class", {})
  absent = dict.fromkeys(("precision", "recall", "f1"))
  rows = [(name, values | absent if name in unknown else values) for name, values in per_class.items()]
  return sorted(rows, key=lambda row: (row[0] in unknown, row[1].get("f1") or 0))


def _answers(facts):
  return {"failures": facts.task.metrics.describe_failures(facts.test), "next": _next(facts)}


def _next(facts):
  """Asks for more examples of a class that is worst and rare."""
  train = facts.splits.get("counts", {}).get("train", {})
  rows = [row for row in _rows(facts.test) if row["support"] >= statistics.FEW and row["name"] in train]
  if not rows or rows[0]["f1"] > _GOOD:
    return []
  name, usual = rows[0]["name"], np.median(list(train.values()))
  if train[name] > usual / 2:
    return []
  return [
    f"Add training examples of “{name}”: it has {train[name]:,}, half of the classes have more than {usual:,.0f}."
  ]


SECTION = Section("classes", "Classes", _context, _answers)
