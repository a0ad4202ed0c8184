"""--probe_solver=auto: how the probe is fitted. This module does not import TensorFlow."""

import dataclasses

from tl_app.recipes.facts import Facts
from tl_app.recipes.phase import ADAMW

# The value of --probe_solver that leaves the choice to the run.
AUTO = "auto"
# Largest rows x features x outputs for scikit-learn. L-BFGS makes about 150 passes over them for all strengths of the
# regularisation: about five minutes on one core at this size.
MOST_WORK = 1e10
# Flags of gradient descent, for which a user who gives one has asked. Fine-tuning reads the others of them too.
_OF_THE_PROBE = ("head_epochs", "head_hidden_units", "head_dropout")
_OF_ANY_PHASE = ("optimizer", "schedule", "warmup", "weight_decay", "early_stopping_patience")


def choose(config, facts: Facts) -> tuple[str, str]:
  """Returns (solver of the probe, the reason for it).

  The default of the task is a solver of scikit-learn. It needs no learning rate and no number of steps, so that it
  fits few examples too: with 300 messages the probe of sms_spam has 0.976 by logistic regression, 0.820 by AdamW.

  Args:
    config: the `Config`.
    facts: the `Facts`.
  """
  if config.probe_solver != AUTO:
    return config.probe_solver, f"--probe_solver={config.probe_solver}"
  reason = _needs_gradients(config, facts)
  if reason:
    return ADAMW, reason
  return facts.closed_solver, "the default of the task"


def _needs_gradients(config, facts):
  """Returns why the probe is fitted by gradient descent, or ""."""
  if not facts.closed_solver:
    return "scikit-learn has no solver for the task"
  names = ["imbalance", *_OF_THE_PROBE]
  names += ["adapt"] if config.adapt == "dann" else []
  # `full` has a new head too.
  names += ["head_learning_rate"] if config.recipe != "full" else []
  names += _OF_ANY_PHASE if config.probe_alone else []
  defaults = {field.name: field.default for field in dataclasses.fields(config)}
  given = next((name for name in names if getattr(config, name) != defaults[name]), "")
  if given:
    return f"--{given}={getattr(config, given)} needs gradient descent"
  if facts.probe_work > MOST_WORK:
    return f"scikit-learn would take too long for {facts.probe_work:.1g} rows x features x outputs"
  return ""
