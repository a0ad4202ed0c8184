"""How far probabilities and prediction sets can be relied on."""

from tl_app.errors.counts import number_of
from tl_app.report import plots
from tl_app.report.sections.section import Section
from tl_app.tasks import wording

# The first screen says how good the answers are that are at least so sure.
_SURE = 0.9
# With fewer examples among them it says it of the surest fifth.
_FEWEST = 20
_FIFTH = 0.2
# A calibration error below this one, or this much above that of perfect probabilities, is small.
_SMALL, _MORE = 0.02, 0.01


def _context(facts):
  found = plots.certainty(facts.test | {"risk_coverage": facts.risk_coverage})
  if not found:
    return None
  folds = facts.metrics.get("validation", {}).get("folds")
  fitted_on = f"the held-out answers of {number_of(folds, 'fold')}" if folds else "the validation split"
  return {"certainty": found, "fitted_on": fitted_on}


def _answers(facts):
  test, sentences = facts.test, []
  if facts.risk_coverage:
    sentences += _selective(facts)
  if "calibration" in test:
    sentences.append(_calibration(test["calibration"]))
  if "prediction_sets" in test:
    sets = test["prediction_sets"]
    sentences.append(
      "A prediction set, the classes that may be the right one, holds it for "
      f"{wording.of_hundred(sets['measured'], test['num_examples'])} "
      f"examples (aim: {wording.of_hundred(sets['coverage'])}). Its mean size is {sets['mean_size']:.2f} classes."
    )
  for name, row in test.get("intervals", {}).get("per_target", {}).items():
    held = wording.of_hundred(row["measured"], test["num_examples"])
    aim = wording.of_hundred(test["intervals"]["coverage"])
    sentences.append(
      f"The answer for “{name}” plus or minus {row['half_width']:.3g} holds the label of {held} examples (aim: {aim})."
    )
  return {"certainty": sentences, "next": _next(facts)}


def _next(facts):
  if facts.config.get("coverage") or "coverage" not in facts.task.answer_flags:
    return []
  return ["Train with --coverage=0.9: the model then says with each answer what else it may be."]


def _selective(facts):
  """Returns how good the sure answers are, and how good the others."""
  points, answers = facts.risk_coverage["points"], facts.task.answers
  total, wrong_share = facts.test["num_examples"], points[-1][2]
  sure = [point for point in points if point[1] >= _SURE and point[0] * total >= _FEWEST]
  if not sure:
    share, lowest, wrong = next(point for point in points if point[0] >= _FIFTH)
  else:
    share, lowest, wrong = sure[-1]
  when = answers.sure.format(percent=wording.percent(lowest))
  of_sure = round(share * total)
  sentence = f"When {when}, {wording.of_hundred(1 - wrong, of_sure)} answers are {answers.right}; "
  sentence += f"this is the case for {wording.of_hundred(share, total)} examples."
  if share == 1:
    return [sentence]
  others = (wrong_share - wrong * share) / (1 - share)
  return [
    sentence,
    f"Of the other answers {wording.of_hundred(min(max(1 - others, 0), 1), total - of_sure)} are {answers.right}.",
  ]


def _calibration(found):
  """Returns whether the probabilities can be relied on."""
  small = found["ece"] <= max(_SMALL, found["ece_if_calibrated"] + _MORE)
  examples = sum(count for *_, count in found["reliability"])
  excess = sum((score - share) * count for score, share, count in found["reliability"]) / examples
  kind = "too high" if excess > 0 else "too low"
  off = f"they differ from the share of right answers by {100 * found['ece']:.1f} percentage points on average"
  if small:
    chance = "" if found["ece"] <= _SMALL else ", as exact ones would on so few examples"
    return f"Its probabilities can be relied on: {off}{chance}."
  return f"Its probabilities are {kind}: {off}."


SECTION = Section("certainty", "Certainty", _context, _answers)
