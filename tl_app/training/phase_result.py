"""What a phase has done."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tl_app.recipes.phase import Phase
from tl_app.training.precision import PLAIN, StepPolicy
from tl_app.training.refit import Refit


@dataclasses.dataclass(frozen=True)
class PhaseResult:
  """The result of a phase. The variables of the model have the values of its best epoch.

  Attributes:
    planned: the `Phase` as planned.
    done: the `Phase` as it was run, or None if --max_minutes left no time for it.
    policy: the `StepPolicy` of its steps.
    averaged_values: averaged weights of the variables that the phase trains, NumPy arrays in the order of
      `stages.changing`; None if it averages none.
    refit: the `Refit` of a probe in closed form; None for other phases.
    skipped: why the phase was not run, although there was time; "" if it was.
  """

  planned: Phase
  done: Phase | None
  policy: StepPolicy = PLAIN
  averaged_values: list[np.ndarray] | None = None
  refit: Refit | None = None
  skipped: str = ""

  def to_tree(self) -> dict:
    """Returns JSON values and NumPy arrays."""
    done = self.done and self.done.to_json()
    tree = {"planned": self.planned.name, "done": done, "policy": dataclasses.asdict(self.policy)}
    own = {"refit": self.refit and dataclasses.asdict(self.refit), "skipped": self.skipped}
    return tree | {"averaged_values": self.averaged_values} | own

  @classmethod
  def from_tree(cls, tree: dict, planned: Mapping[str, Phase]) -> "PhaseResult":
    """Returns the result that `to_tree` has saved.

    Args:
      tree: what it returned.
      planned: {name: `Phase`} of the plan.
    """
    phase = planned[tree["planned"]]
    refit = tree["refit"] and Refit(**tree["refit"])
    done, policy = as_saved(tree["done"], phase), StepPolicy(**tree["policy"])
    return cls(phase, done, policy, tree["averaged_values"], refit, tree["skipped"])


def as_saved(saved: dict | None, planned: Phase) -> Phase | None:
  """Returns the `Phase` of its saved JSON, `planned` itself if they are equal; None for None."""
  phase = saved and Phase.from_json(saved)
  return planned if phase == planned else phase
