"""The slices of the test split: where the model is worse, and how it treats groups."""

from tl_app.report import slices_text
from tl_app.report.sections.section import Section

_MAX_ROWS = 200


def _context(facts):
  slices = facts.test.get("slices")
  if not slices:
    return None
  ranked = [row for row in slices["rows"] if row["ranked"]]
  small = [row for row in slices["rows"] if not row["ranked"]]
  return {
    "slices": slices,
    "ranked": ranked[:_MAX_ROWS],
    "hidden": max(len(ranked) - _MAX_ROWS, 0),
    "small": sorted(small, key=lambda row: -row["num_examples"])[:_MAX_ROWS],
    "num_small": len(small),
    "worse": [slices_text.name(row) for row in slices_text.worse(facts.test)],
    "method": _method(facts.task.metrics),
  }


def _method(metrics):
  test = "Fisher's exact test" if metrics.counts_right_answers else "a comparison with random slices of the same size"
  return (
    f"The p-value is that of {test}, corrected by Holm's method for all slices of the table, which may overlap: the "
    "probability of even one false alarm is at most 5 %."
  )


def _answers(facts):
  text = slices_text.summary(facts.test, facts.task.metrics)
  return {"failures": [f"{text[0].upper()}{text[1:]}."]} if text else {}


SECTION = Section("slices", "Slices", _context, _answers)
