"""Shows what training changed: compares the variables of a run's export with those of the pretrained backbone."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tl_app import workdir as workdir_lib
from tl_app.backbones.backbone import parameters
from tl_app.commands import exports, finished_run
from tl_app.errors import RunFailed, UserError
from tl_app.errors.counts import number_of
from tl_app.files import checksums
from tl_app.model import checkpoint, stages
from tl_app.recipes.phase import HEAD, Phase
from tl_app.report import formatting
from tl_app.training import selection


@dataclasses.dataclass
class StageChange:
  """Comparison of one stage in the export with the same stage of the pretrained backbone.

  Attributes:
    name: name of the stage.
    variables: number of its variables.
    identical: number of variables that are identical to the bit.
    planned: number of variables that the phases train, if the selected model contains their weights.
    trained: number of the planned variables that changed.
    statistics: number of moving statistics that BatchNormalization may update, if the selected model contains them.
    parameters: number of parameters of the stage.
    moved: number of parameters that differ in at least one bit.
    largest: largest relative change of a variable: the norm of the change divided by the norm of the variable.
    wrong: names of the variables that changed although neither the phases nor BatchNormalization may change them.
  """

  name: str
  variables: int = 0
  identical: int = 0
  planned: int = 0
  trained: int = 0
  statistics: int = 0
  parameters: int = 0
  moved: int = 0
  largest: float = 0.0
  wrong: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Changes:
  """Comparison of all stages of a run's backbone.

  Attributes:
    title: description of run, backbone and selected model.
    candidate: name of the candidate, e.g. "probe" or "fine_tuned".
    fine_tuned: names of the other candidates of the run, if this one has the pretrained backbone.
    stages: list of `StageChange`, from the input upwards.
    head: number of variables of the head, which has no pretrained counterpart.
    miscounted: {stage: (phase, number of trained variables in plan.json, number that the phase selects)} of the stages
      in which the two numbers differ.
  """

  title: str
  candidate: str
  fine_tuned: list
  stages: list
  head: int
  miscounted: dict


def compare(
  workdir: str | pathlib.Path, downloads: Mapping = types.MappingProxyType({}), candidate: str = ""
) -> Changes:
  """Loads the pretrained backbone of a finished run and compares the run's export with it, variable by variable.

  Args:
    workdir: directory of the run.
    downloads: as of `finished_run.opened`.
    candidate: name of a candidate whose weights are compared in place of the export; "" for the selected one.

  Raises:
    UserError: there is no finished run, no export or no such candidate, or --backbone is another network now.
  """
  paths, config, assets = finished_run.opened(workdir, downloads)
  try:
    metrics = workdir_lib.read(paths.metrics)
    selected, last = metrics.get("selected_candidate") or metrics["selected"], metrics.get("selected_phase")
  except (ValueError, KeyError, TypeError):
    raise UserError(f"{paths.metrics} is damaged: train again") from None
  if candidate in ("", selected):
    name, weights = selected, _Exported(paths.export)
  else:
    name, weights = candidate, _Restored(finished_run.restore(paths, config, assets, candidate))
    last = workdir_lib.read_plan(paths).get("candidates", {}).get(candidate)
  model = finished_run.rebuild(paths, config, assets)
  planned = _planned(paths.plan) if name not in selection.HEADS else []
  names = [phase.name for phase, _ in planned]
  if last in names:
    # The selected model contains nothing of the later phases.
    planned = planned[: names.index(last) + 1]
  trains, moves, miscounted = _expected(model, planned)
  changes = [_stage(stage, members, weights, trains, moves) for stage, members in model.backbone.stages.items()]
  return Changes(
    title=f"{paths.export if name == selected else paths.candidate(name)}: {config.backbone}, "
    f"--recipe={config.recipe} --train_stages={config.train_stages}, "
    f"{'selected model' if name == selected else 'candidate'}: {formatting.candidate(name)}",
    candidate=name,
    fine_tuned=[
      other for other in checkpoint.candidates(paths) if name in selection.HEADS and other not in selection.HEADS
    ],
    stages=changes,
    head=len(model.stages[HEAD]),
    miscounted=miscounted,
  )


def table(changes: Changes) -> str:
  """Returns the comparison as text: one line per stage, and a last line that says whether it agrees with the plan."""
  lines = [
    changes.title,
    f"  {'stage':12} {'variables':>9} {'identical':>9} {'changed':>8} {'planned':>8} {'statistics':>10} "
    f"{'parameters changed':>24} {'largest change':>14}",
  ]
  for stage in changes.stages:
    lines.append(
      f"  {stage.name:12} {stage.variables:9} {stage.identical:9} {stage.variables - stage.identical:8} "
      f"{stage.planned:8} {stage.statistics:10} {f'{stage.moved:,} of {stage.parameters:,}':>24} {stage.largest:14.1e}"
    )
  lines.append(f"  {HEAD:12} {changes.head:9} {'new':>9}")
  faults = _faults(changes)
  return "\n".join([*lines, f"does not agree with the plan: {'; '.join(faults)}" if faults else _agreement(changes)])


def require_agreement(changes: Changes) -> None:
  """Raises `RunFailed` if the export does not agree with the plan."""
  faults = _faults(changes)
  if faults:
    raise RunFailed(f"the export does not agree with the plan: {faults[0]}")


def _faults(changes):
  faults = []
  for stage in changes.stages:
    if stage.wrong:
      wrong = number_of(len(stage.wrong), "frozen variable")
      faults.append(f"{wrong} of stage {stage.name} changed ({', '.join(stage.wrong[:3])})")
    if stage.planned and not stage.trained:
      faults.append(f"stage {stage.name} should have trained, but none of its variables changed")
    if stage.name in changes.miscounted:
      phase, planned, chosen = changes.miscounted[stage.name]
      faults.append(
        f"plan.json says that {planned} variables of stage {stage.name} train in phase {phase}, which selects {chosen}"
      )
  return faults


def _agreement(changes):
  total = sum(stage.variables for stage in changes.stages)
  if changes.candidate in selection.HEADS:
    others = "".join(f"; --candidate={name} shows what fine-tuning changed" for name in changes.fine_tuned[-1:])
    return (
      f"agrees with the plan: {formatting.candidate(changes.candidate)} has the pretrained backbone, all {total} "
      f"variables are identical to the bit{others}"
    )
  planned = sum(stage.planned for stage in changes.stages)
  moving = sum(stage.statistics for stage in changes.stages)
  return (
    f"agrees with the plan: {total - planned - moving} frozen variables identical to the bit, "
    f"{sum(stage.trained for stage in changes.stages)} of {planned} that train changed"
    + (f", {moving} moving statistics free to move" if moving else "")
  )


def _planned(path):
  """Returns [(`Phase`, {stage: number of variables that train})] of the phases in plan.json that were run."""
  return [
    (Phase.from_json(values), {row["name"]: row["trainable"] for row in values["stages"]})
    for values in workdir_lib.read(path)["phases"]
    if values["epochs"]
  ]


def _expected(model, planned):
  """Returns which variables of the backbone may have changed.

  Args:
    model: the `Model`.
    planned: the result of `_planned`.

  Returns:
    ({stage: ids of the variables that any phase trains}, {stage: ids of the moving statistics that may change},
    `miscounted` as in `Changes`).
  """
  trains = {name: set() for name in model.backbone.stages}
  moves = {name: set() for name in model.backbone.stages}
  miscounted = {}
  for phase, counts in planned:
    modes, selected = stages.batch_norm_modes(model, phase), stages.selected(model, phase)
    for name, members in model.backbone.stages.items():
      chosen = {id(v) for v in selected.get(name, ())}
      trains[name] |= chosen
      moves[name] |= {id(v) for v in members if modes[name] == "batch" and id(v) in model.statistics}
      if counts.get(name, 0) != len(chosen):
        miscounted[name] = phase.name, counts.get(name, 0), len(chosen)
  return trains, moves, miscounted


def _stage(name, members, weights, trains, moves):
  stage = StageChange(
    name, len(members), planned=len(trains[name]), statistics=len(moves[name]), parameters=parameters(members)
  )
  for variable, new in zip(members, weights.values(name, members)):
    old = variable.numpy()
    differing = int(np.count_nonzero(_bits(old) != _bits(new)))
    stage.moved += differing
    stage.identical += not differing
    stage.trained += bool(differing) and id(variable) in trains[name]
    if differing and id(variable) not in trains[name] | moves[name]:
      stage.wrong.append(variable.path)
    norm = np.linalg.norm(old.astype(np.float64))
    if norm:
      stage.largest = max(stage.largest, float(np.linalg.norm(new.astype(np.float64) - old) / norm))
  return stage


def _bits(array):
  return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


class _Restored:
  """The variables of a candidate, by stage."""

  def __init__(self, model):
    self._stages = model.backbone.stages

  def values(self, stage, members):
    """Yields the values of a stage as NumPy arrays, in the order of `members`."""
    del members
    for variable in self._stages[stage]:
      yield variable.numpy()


class _Exported:
  """The variables of an exported SavedModel, by stage."""

  def __init__(self, directory):
    if not (directory / workdir_lib.EXPORT_FACTS).is_file():
      raise UserError(f"{directory} holds no export: python -m tl_app.export --workdir={directory.parent}")
    self._directory = directory
    checksums.verify_all(directory, checksums.EXPORT_AGAIN)
    self._stages = exports.read_facts(directory).get("stages")
    if self._stages is None:
      raise UserError(f"{directory} does not list its stages: export again with python -m tl_app.export")
    self._reader = tf.train.load_checkpoint(str(directory / "variables" / "variables"))

  def values(self, stage, members):
    """Yields the values of a stage as NumPy arrays, in the order of `members`, the variables of the pretrained stage.

    Raises:
      UserError: the stage has other variables.
    """
    positions = [position for _, position in self._stages.get(stage, ())]
    if len(positions) != len(members):
      found = number_of(len(positions), "variable")
      raise UserError(f"{self._directory} has {found} in stage {stage}, --backbone {len(members)}")
    for variable, position in zip(members, positions):
      value = self._reader.get_tensor(workdir_lib.EXPORT_VARIABLE.format(position=position))
      value = np.asarray(value)
      if value.shape != tuple(variable.shape) or value.dtype != variable.numpy().dtype:
        raise UserError(
          f"{self._directory}: {variable.path} is {value.dtype} {list(value.shape)}, but {list(variable.shape)} in "
          "--backbone: one of them has changed"
        )
      yield value
