"""Which answers are accepted, what mistakes cost, and how well other data are told from those of the run."""

from tl_app.report.sections.section import Section
from tl_app.tasks import wording

_BY = {
  "probability": "the probability of the label",
  "ood_score": "the ood_score (how unlike the training data an input is)",
  "cost": "the expected cost",
}
_TOLD_BY = {"ood_score": "by the ood_score", "probability": "by the probability"}
_PARTS = ("selective", "costs", "min_precision")


def _context(facts):
  test, other = facts.test, facts.metrics.get("ood")
  if not other and not any(name in test for name in _PARTS):
    return None
  return {
    "by": _BY,
    "ood": other,
    "told_by": [(_TOLD_BY[name], other[name]) for name in _TOLD_BY if name in other] if other else [],
  } | {name: test.get(name) for name in _PARTS}


def _answers(facts):
  return {"certainty": [*_selective(facts.test.get("selective")), *_other_data(facts.metrics.get("ood"))]}


def _selective(found):
  if not found:
    return []
  sentence = f"It accepts {wording.of_hundred(found['accepted'])} answers by {_BY[found['by']]}"
  if found.get("error") is None:
    return [f"{sentence}."]
  return [
    f"{sentence}; of these {wording.of_hundred(1 - found['error'])} are right, of all "
    f"{wording.of_hundred(1 - found['error_of_all'])}."
  ]


def _other_data(found):
  if not found:
    return []
  return [
    f"Where {wording.of_hundred(found['ood_score']['accepted'])} test examples are accepted, it rejects "
    f"{wording.of_hundred(found['ood_score']['recall'])} examples of {found['dataset']}."
  ]


SECTION = Section("accepted", "Accepted answers", _context, _answers)
