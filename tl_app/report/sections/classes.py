"""The metrics of each class."""

from tl_app.report import confusions
from tl_app.report.sections.section import Section
from tl_app.tasks import statistics


def _context(facts):
  test = facts.test
  rows = _rows(test)
  return rows and {
    "classes": rows,
    "without_examples": statistics.classes_without_examples(test),
    "macro_f1_note": statistics.MACRO_F1_NOTE if "macro_f1" in test else "",
  }


def _rows(test):
  """Returns the rows of the table, lowest F1 first, each with its most frequent confusion."""
  confused_with = {}
  for confusion in reversed(confusions.most_frequent(test)):
    confused_with[confusion["label"]] = confusion
  per_class = test.get("per_class", {})
  rows = [{"name": name, "confused_with": confused_with.get(name)} | values for name, values in per_class.items()]
  return sorted(rows, key=lambda row: row.get("f1", 0))


SECTION = Section("classes", "Classes", _context)
