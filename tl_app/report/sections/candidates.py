"""What was compared before a model was selected."""

from tl_app.report import formatting
from tl_app.report.sections.section import Section


def _context(facts):
  candidates = facts.metrics.get("candidates", {})
  rows = [{"name": formatting.candidate(name)} | values for name, values in candidates.items()]
  return {"candidates": rows, "measured": formatting.measured(facts.metrics.get("compared", {}))} if rows else None


def _answers(facts):
  """Compares with the constant baseline, and with the simple methods, which were never selected."""
  return {"comparison": [*_against_constant(facts), *_against_simple(facts)], "next": _next(facts)}


def _against_constant(facts):
  metrics, test = facts.task.metrics, facts.test
  value, baseline = test[metrics.primary_metric], metrics.baseline_score(facts.metrics)
  if baseline is None:
    return []
  low = (test.get(f"{metrics.primary_metric}_ci95") or [value])[0]
  verdict = "Yes" if low > baseline else "Not clearly" if value > baseline else "No"
  return [f"{verdict}: {metrics.describe_against(test, facts.metrics)}."]


def _against_simple(facts):
  metrics, candidates = facts.task.metrics, facts.metrics.get("candidates", {})
  primary, title = metrics.primary_metric, metrics.primary_title
  # Only what was trained here has a loss.
  simple = {
    name: values[primary]
    for name, values in candidates.items()
    if "loss" not in values and name != metrics.baseline_name and primary in values
  }
  # Not the score of cross-validation, which is of other examples.
  selected = candidates.get(facts.metrics.get("selected_candidate"), {})
  own = selected.get(primary, facts.metrics.get("validation", {}).get(primary))
  if not simple or own is None:
    return []
  name = max(simple, key=lambda name: simple[name])
  other = simple[name]
  verdict = "as good as" if own == other else "better than" if own > other else "not better than"
  return [
    f"It is {verdict} the best simple method, {formatting.candidate(name)}: {title} {own:.2f} against {other:.2f} "
    f"{formatting.measured(facts.metrics.get('compared', {}))}."
  ]


def _next(facts):
  trained = [name for name, values in facts.metrics.get("candidates", {}).items() if "loss" in values]
  if len(trained) != 1 or facts.config.get("recipe") != "probe":
    return []
  return ["Try --recipe=lp_ft: only the head was trained, the pretrained network was not changed."]


SECTION = Section("candidates", "Candidates", _context, _answers)
