"""The worst wrong predictions."""

from tl_app.report import predictions
from tl_app.report.facts import RunFacts
from tl_app.report.sections.section import Section

_MAX_ERRORS = 25


def _context(facts):
  answers = facts.task.answers
  errors = predictions.worst(facts.paths.predictions, answers, _MAX_ERRORS)
  if errors is None:
    return None
  format_labels(errors.worst, facts)
  return {
    "errors": errors,
    "error_columns": [name for name in (errors.worst or [{}])[0] if name not in ("id", *predictions.INPUTS)],
    "errors_text": answers.describe_errors(len(errors.worst), errors.wrong, errors.total),
    "inputs": facts.previews({row["id"] for row in errors.worst}),
  }


def format_labels(rows: list[dict[str, str]], facts: RunFacts) -> None:
  """Formats the labels and predictions of rows of the predictions file for people, where the inputs are at hand."""
  if not facts.examples:
    return
  inputs = dict(zip(map(predictions.written, facts.examples.ids), facts.examples.inputs.array()))
  for row in rows:
    for key in ("label", "prediction"):
      if key in row:
        row[key] = facts.task.answers.format_label(row[key], inputs[row["id"]])


SECTION = Section("errors", "Worst errors", _context)
