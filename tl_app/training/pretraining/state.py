"""What a pretraining has done, which is saved so that an interrupted one continues."""

import dataclasses

import numpy as np

from tl_app.backbones.weights import values
from tl_app.model.model import BackboneWithHead
from tl_app.training import continuing
from tl_app.workdir.state import RunState

# Name of the part of the `RunState`.
PART = "pretraining"


@dataclasses.dataclass(frozen=True)
class Measured:
  """Weights and what they measure.

  Attributes:
    name: "start", or PHASE/EPOCH.
    metrics: of the held-out part, see `PretrainingObjective.metrics`, and "probe" with --probe_dataset.
    values: NumPy arrays of the variables that the phases may change.
  """

  name: str
  metrics: dict[str, float]
  values: list[np.ndarray]

  @property
  def score(self) -> tuple:
    """What the best weights have most of: the score of the probe if there is one, then the smallest loss."""
    probe = (self.metrics["probe"],) if "probe" in self.metrics else ()
    return (*probe, -self.metrics["loss"])


@dataclasses.dataclass
class Done:
  """What is done of the phases of a pretraining, at the beginning of a fit or at its end.

  Attributes:
    phases: number of phases that have ended.
    start: before the backbone has trained; None if that was not measured yet.
    best: the best weights so far.
    fitted: the phases that were run, JSON values.
    prepared: what `PretrainingObjective.prepare` returned for the phase that is being fitted.
  """

  phases: int = 0
  start: Measured | None = None
  best: Measured | None = None
  fitted: list[dict] = dataclasses.field(default_factory=list)
  prepared: dict | None = None

  @classmethod
  def restored(cls, model: BackboneWithHead, state: RunState, probe=None) -> "Done":
    """Returns what a saved run has done, and gives its values to the variables of the model and to the probe.

    Args:
      model: the `BackboneWithHead`.
      state: the `RunState`.
      probe: the `fit.Probe`, or None.

    Raises:
      UserError: the weights of the backbone have changed since the run began.
    """
    variables = _variables(model)
    state.know(variables)
    tree = state.take(PART)
    if not tree:
      return cls()
    continuing.assign(variables, tree.pop("variables"))
    continuing.set_random_state(tree.pop("random"))
    saved = tree.pop("probe")
    if probe:
      probe.set_state(saved)
    measured = {name: tree[name] and Measured(**tree[name]) for name in ("start", "best")}
    return cls(**tree | measured)

  def note(self, model: BackboneWithHead, state: RunState, probe=None) -> None:
    """Makes this, and the present values of the variables, a part of the next saved state.

    Args:
      model: the `BackboneWithHead`.
      state: the `RunState`.
      probe: the `fit.Probe`, or None.
    """
    # `dataclasses.asdict` would copy the arrays.
    tree = dict(vars(self)) | {name: found and dict(vars(found)) for name, found in self._measured().items()}
    tree |= {"variables": values(_variables(model)), "random": continuing.random_state()}
    state.set_part(PART, tree | {"probe": probe and probe.get_state()})

  def _measured(self):
    return {"start": self.start, "best": self.best}


def _variables(model):
  """Returns the variables of backbone and head, with the seeds of their layers, each once."""
  variables = (*model.backbone.network.variables, *model.head.variables)
  return list({id(variable): variable for variable in variables}.values())
