"""What was decided before the training."""

from tl_app.report.sections.section import Section

# The value of --probe_solver that has epochs and learning rates.
_BY_GRADIENTS = "adamw"


def _context(facts):
  if not facts.plan:
    return None
  phases = facts.plan.get("phases", [])
  # What stands in place of epochs, steps and rates.
  untrained = {phase["name"]: f"solved by scikit-learn ({phase['solver']})" for phase in phases if _is_solved(phase)}
  untrained |= {phase["name"]: "skipped, see below" for phase in phases if phase.get("skipped")}
  return {"plan": facts.plan, "stages": _stages(facts.plan), "untrained": untrained}


def _is_solved(phase):
  """Returns whether a phase was solved by scikit-learn, without epochs and learning rates."""
  return phase.get("solver", _BY_GRADIENTS) != _BY_GRADIENTS


def _stages(plan):
  """Returns a row per stage: name, variables, parameters, and its learning rate in each phase.

  It is None where the stage is frozen, and a text where there is none.
  """
  phases = plan.get("phases", [])
  stages = {stage["name"]: stage for stage in plan.get("stages", [])}
  for phase in phases:
    for name in phase.get("train_stages", []):
      stages.setdefault(name, {"name": name})
  return [
    stage | {"learning_rates": [_learning_rate(phase, name) for phase in phases]} for name, stage in stages.items()
  ]


def _learning_rate(phase, stage):
  if stage not in phase.get("train_stages", []):
    return None
  if phase.get("skipped"):
    return "skipped"
  return "solved" if _is_solved(phase) else phase.get("learning_rates", {}).get(stage)


SECTION = Section("plan", "Plan", _context)
