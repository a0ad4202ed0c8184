"""The curves of the training."""

from tl_app.report import plots
from tl_app.report.sections.section import Section


def _context(facts):
  curves = plots.curves(facts.epochs, facts.task.metrics)
  return {"curves": curves} if curves else None


SECTION = Section("training", "Training", _context)
