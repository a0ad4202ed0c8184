"""What the run took, and what it ran on."""

from tl_app.report.sections.section import Section


def _context(facts):
  return {}


SECTION = Section("machine", "Time and environment", _context)
