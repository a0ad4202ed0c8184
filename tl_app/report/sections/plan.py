"""What was decided before the training."""

from tl_app.report.sections.section import Section


def _context(facts):
  return {"plan": facts.plan, "stages": _stages(facts.plan)} if facts.plan else None


def _stages(plan):
  """Returns a row per stage: name, variables, parameters, and its learning rate in each phase (None: frozen)."""
  phases = plan.get("phases", [])
  stages = {stage["name"]: stage for stage in plan.get("stages", [])}
  for phase in phases:
    for name in phase.get("train_stages", []):
      stages.setdefault(name, {"name": name})
  return [
    stage | {"learning_rates": [_learning_rate(phase, name) for phase in phases]} for name, stage in stages.items()
  ]


def _learning_rate(phase, stage):
  return phase.get("learning_rates", {}).get(stage) if stage in phase.get("train_stages", []) else None


SECTION = Section("plan", "Plan", _context)
