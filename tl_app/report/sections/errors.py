"""The worst wrong predictions."""

from tl_app.report import formatting, predictions
from tl_app.report.facts import RunFacts
from tl_app.report.sections.section import Section

_MAX_ERRORS = 25


def _context(facts):
  answers = facts.task.answers
  errors = predictions.worst(facts.paths.predictions, answers, _MAX_ERRORS)
  if errors is None:
    return None
  format_labels(errors.worst, facts)
  if not facts.task.has_class_names:
    errors.worst[:] = [
      row | {name: formatting.short(row[name]) for name in row if name != "id"} for row in errors.worst
    ]
  return {
    "errors": errors,
    "error_columns": [
      name for name in (errors.worst or [{}])[0] if name not in ("id", *predictions.INPUTS, *predictions.MORE)
    ],
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


def _answers(facts):
  if not facts.has_predictions:
    return {}
  rows, answers = list(facts.predictions()), facts.task.answers
  wrong = sum(answers.error(row) is not None for row in rows)
  look = ["Look at the worst errors in the report: some are wrong labels in the data, the others show what is missing."]
  return {"failures": answers.describe_failures(rows), "next": look if wrong else []}


SECTION = Section("errors", "Worst errors", _context, _answers)
