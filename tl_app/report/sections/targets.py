"""The metrics of each number that is predicted."""

from tl_app.report import plots, predictions
from tl_app.report.sections.section import Section


def _context(facts):
  if not facts.test.get("per_target"):
    return None
  return {"scatter": plots.scatter(predictions.read(facts.paths.predictions)) if facts.has_predictions else None}


SECTION = Section("targets", "Targets", _context)
