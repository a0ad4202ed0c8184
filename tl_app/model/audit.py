"""The audit of a phase: which variables changed, proven by checksums."""

import dataclasses
import logging

from tl_app.errors import RunFailed
from tl_app.errors.counts import number_of
from tl_app.model import stages
from tl_app.model.model import BackboneWithHead
from tl_app.model.variables import checksums, replicas_agree
from tl_app.recipes.phase import Phase

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class State:
  """The variables before a phase, and what the phase may do to them.

  Attributes:
    sums: {stage: [sha256 hex of each variable]}.
    trains: {stage: [bool]}, in the same order: whether the phase trains the variable.
    moves: {stage: [bool]}: whether it is a moving statistic that the phase updates.
  """

  sums: dict[str, list[str]]
  trains: dict[str, list[bool]]
  moves: dict[str, list[bool]]


def state(model: BackboneWithHead, phase: Phase) -> State:
  """Returns the `State` before a phase; call it after `stages.set_trainable`."""
  modes = stages.batch_norm_modes(model, phase)
  return State(
    sums=checksums(model.stages),
    trains={name: [bool(v.trainable) for v in variables] for name, variables in model.stages.items()},
    moves={
      name: [modes[name] == "batch" and id(v) in model.statistics for v in variables]
      for name, variables in model.stages.items()
    },
  )


def has_moved(model: BackboneWithHead, before: State) -> bool:
  """Returns whether every stage that trains has changed since `before`."""
  training = {name: model.stages[name] for name, trains in before.trains.items() if any(trains)}
  return all(sums != before.sums[name] for name, sums in checksums(training).items())


def report(model: BackboneWithHead, phase: Phase, before: State) -> None:
  """Makes the `audit` of a phase and logs what has changed.

  Raises:
    RunFailed: as `audit`.
  """
  changes = audit(model, before)
  changed = ", ".join(f"{name} {c['changed']}/{c['variables']}" for name, c in changes.items() if c["changed"])
  log.info("audit of phase %s: changed variables: %s; all others identical to the bit", phase.name, changed or "none")


def audit(model: BackboneWithHead, before: State) -> dict[str, dict[str, int]]:
  """Compares every variable with its checksum before the phase.

  Args:
    model: the `BackboneWithHead` after the phase.
    before: its `State` before the phase.

  Returns:
    {stage: {"variables", "trainable", "changed"}}: numbers of variables.

  Raises:
    RunFailed: a frozen variable changed, a stage that should train did not change at all, or the devices disagree.
  """
  after = checksums(model.stages)
  result = {}
  for name, sums in after.items():
    changed = [a != b for a, b in zip(sums, before.sums[name])]
    wrong = [i for i, c in enumerate(changed) if c and not before.trains[name][i] and not before.moves[name][i]]
    if wrong:
      paths = ", ".join(model.stages[name][i].path for i in wrong[:3])
      raise RunFailed(f"audit: {number_of(len(wrong), 'frozen variable')} of stage {name} changed ({paths})")
    differing = [variable.path for variable in model.stages[name] if not replicas_agree(variable)]
    if differing:
      raise RunFailed(
        f"audit: devices disagree on {number_of(len(differing), 'variable')} of stage {name} "
        f"({', '.join(differing[:3])})"
      )
    trained = [c for c, trains in zip(changed, before.trains[name]) if trains]
    if trained and not any(trained):
      raise RunFailed(f"audit: stage {name} should have trained, but none of its variables changed")
    result[name] = {"variables": len(sums), "trainable": len(trained), "changed": sum(changed)}
  return result
