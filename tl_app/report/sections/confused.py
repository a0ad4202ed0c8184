"""Which classes were taken for which."""

from tl_app.report import confusions
from tl_app.report.sections.section import Section

_MAX_CONFUSIONS = 25


def _context(facts):
  test = facts.test
  if not test.get("confusion_matrix"):
    return None
  return {"matrix": _matrix(test), "confusions": confusions.most_frequent(test)[:_MAX_CONFUSIONS]}


def _matrix(test):
  """Returns {"names", "rows"} of a confusion matrix that can be read; a cell is (count, share of its row), or None."""
  names, counts = confusions.matrix(test)
  if not 0 < len(names) <= confusions.MAX_MATRIX_CLASSES:
    return None
  cells = [list(zip(*row)) for row in zip(counts.tolist(), confusions.shares(counts).tolist())]
  return {"names": names, "rows": list(zip(names, cells))}


SECTION = Section("confusions", "Confusions", _context)
