"""How far probabilities and prediction sets can be relied on."""

from tl_app.report import plots
from tl_app.report.sections.section import Section


def _context(facts):
  found = plots.certainty(facts.test)
  return {"certainty": found} if found else None


SECTION = Section("certainty", "Certainty", _context)
