"""How long the parts of the run took."""

from tl_app.report.sections.section import Section


def _context(facts):
  return {} if facts.metrics.get("seconds") else None


SECTION = Section("machine", "Time", _context)
