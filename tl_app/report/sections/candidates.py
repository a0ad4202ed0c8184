"""What was compared before a model was selected."""

from tl_app.report import formatting
from tl_app.report.sections.section import Section


def _context(facts):
  candidates = facts.metrics.get("candidates", {})
  rows = [{"name": formatting.candidate(name)} | values for name, values in candidates.items()]
  return {"candidates": rows} if rows else None


SECTION = Section("candidates", "Candidates", _context)
