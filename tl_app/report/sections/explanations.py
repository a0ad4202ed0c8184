"""Why some test examples are answered as they are; `python -m tl_app.explain --report` finds it."""

from tl_app.report import explanations
from tl_app.report.facts import read_json
from tl_app.report.sections.section import Section


def _context(facts):
  found = read_json(facts.paths.explanations / explanations.OF_REPORT)
  return {"explained": explanations.shown(found, explanations.TOP)} if found else None


SECTION = Section("explanations", "Explanations", _context)
