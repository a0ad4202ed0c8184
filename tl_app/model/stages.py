"""Which variables train: set by name, total, and proven afterwards."""

import dataclasses
import re

import keras

from tl_app.errors import RunFailed, UserError
from tl_app.model import model as model_lib
from tl_app.recipes import recipes
from tl_app.training import optimizers

_SMALL = re.compile(r"(^|[_/])(bias|beta|gamma)(_\d+)?$")


def set_trainable(model, phase):
  """Makes exactly what `phase` trains trainable, and sets the mode of BatchNormalization; compile again afterwards.

  Raises:
    UserError: the phase trains nothing of the backbone although it should.
  """
  model.network.trainable = True
  _set_batch_norm(model, phase)
  chosen = {id(variable) for variables in selected(model, phase).values() for variable in variables}
  for variable in (v for variables in model.stages.values() for v in variables):
    variable.trainable = id(variable) in chosen


def selected(model, phase):
  """Returns {stage: variables that `phase` trains}, stages from the input upwards.

  Raises:
    UserError: nothing of the backbone matches what the recipe asks for.
  """
  result = {
    name: [v for v in variables if id(v) in model.can_train and (name == recipes.HEAD or trains(v, name, phase))]
    for name, variables in model.stages.items()
    if name in phase.train_stages
  }
  if phase.backbone_trains and not any(variables for name, variables in result.items() if name != recipes.HEAD):
    names = [name for name in phase.train_stages if name != recipes.HEAD]
    if phase.only == recipes.KERNELS and any(is_kernel(v, name, 1) for name in names for v in model.stages[name]):
      raise UserError(
        f"--lora_rank={phase.lora_rank}: updates of this rank are no smaller than the kernels of the stages "
        f"{', '.join(names)}: lower it, or take --recipe=lp_ft"
      )
    what = {recipes.KERNELS: "dense or convolution kernels", recipes.BIAS_NORM: "biases or normalisation"}
    raise UserError(
      f"phase {phase.name} finds no {what.get(phase.only, 'trainable variables')} in the stages "
      f"{', '.join(names)} of {model.backbone.spec.name}: choose other --train_stages or another --recipe"
    )
  return result


def that_can_train(model):
  """Returns the names of the backbone's stages that hold a variable that can train, from the input upwards."""
  return [name for name, vs in model.backbone.stages.items() if any(id(v) in model.can_train for v in vs)]


def trains(variable, stage, phase):
  """Whether `phase` trains a variable of a backbone stage that it has chosen."""
  if phase.only == recipes.ALL:
    return True
  if phase.only == recipes.BIAS_NORM:
    return is_bias_or_norm(variable)
  if phase.only == recipes.KERNELS:
    return is_kernel(variable, stage, phase.lora_rank)
  return re.search(phase.only, variable.path) is not None


def is_bias_or_norm(variable):
  """Whether a variable is a bias, or shift or scale of a normalisation; biases of attention are [heads, size]."""
  return len(variable.shape) <= 1 or _SMALL.search(variable.path) is not None


def is_kernel(variable, stage, rank):
  """Whether a low-rank update of a variable is smaller than a whole one: a dense or convolution kernel.

  Tables of embeddings are no kernels, depthwise convolutions (one channel a filter) have nothing to factor.
  """
  # Not the whole path: what is called embedder has kernels.
  names = "/".join([stage, *variable.path.split("/")[-2:]]).lower()
  if is_bias_or_norm(variable) or "embed" in names or variable.shape[-1] == 1:
    return False
  rows, columns = optimizers.matrix_shape(variable.shape)
  return rank * (rows + columns) < rows * columns


def decays(variable):
  """Whether weight decay applies: matrices and kernels, not biases and normalisation (Devlin et al. 2019)."""
  return not is_bias_or_norm(variable) and "norm" not in variable.path.lower()


def batch_norm_modes(model, phase):
  """Returns {stage: "frozen", "batch" or "-"}: how the stage's BatchNormalization runs while `phase` trains.

  A SavedModel is opaque: it has one mode for all its stages. `train_unfrozen` takes the training mode only where every
  stage trains, since otherwise frozen stages would run on batch statistics and move their own.
  """
  on_batch, backbone = set(), model.backbone
  if not backbone.has_training_mode:
    pass
  elif phase.backbone_trains and phase.bn == "train":
    on_batch = set(model.stages)
  elif phase.bn == "train_unfrozen" and (not backbone.single_mode or set(backbone.stages) <= set(phase.train_stages)):
    on_batch = set(phase.train_stages)
  return {
    name: ("batch" if name in on_batch else "frozen") if any(id(v) in model.statistics for v in variables) else "-"
    for name, variables in model.stages.items()
  }


def changing(model, phases):
  """Returns the variables that `phases` may change: those of the stages that train, and the statistics that move."""
  chosen = {id(v) for phase in phases for name in phase.train_stages for v in model.stages[name]}
  for phase in phases:
    modes = batch_norm_modes(model, phase)
    chosen |= {id(v) for name, vs in model.stages.items() for v in vs if modes[name] == "batch"} & model.statistics
  return [v for variables in model.stages.values() for v in variables if id(v) in chosen]


def _set_batch_norm(model, phase):
  modes = batch_norm_modes(model, phase)
  if model.backbone.single_mode:
    # Without statistics there is only dropout to switch: on, as the module does by itself.
    if set(modes.values()) & {"frozen", "batch"}:
      model.backbone.set_training_mode("batch" in modes.values())
    return
  stage_of = {id(v): name for name, variables in model.stages.items() for v in variables}
  for layer in model.network._flatten_layers(include_self=False):
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.trainable = modes.get(stage_of.get(id(layer.moving_mean))) == "batch"


@dataclasses.dataclass(frozen=True)
class State:
  """What the audit compares: checksums, what was to train, and which statistics were to move.

  Attributes:
    sums: {stage: [sha256 hex of each variable]}.
    trains: {stage: [bool]}, in the same order.
    moves: {stage: [bool]}: moving statistics of BatchNormalization on batch statistics.
  """

  sums: dict
  trains: dict
  moves: dict


def state(model, phase):
  """Returns the `State` before a phase, after `set_trainable`."""
  modes = batch_norm_modes(model, phase)
  return State(
    sums=model_lib.checksums(model.stages),
    trains={name: [bool(v.trainable) for v in variables] for name, variables in model.stages.items()},
    moves={
      name: [modes[name] == "batch" and id(v) in model.statistics for v in variables]
      for name, variables in model.stages.items()
    },
  )


def has_moved(model, before):
  """Whether every stage that trains has changed since its `State` `before`."""
  training = {name: model.stages[name] for name, trains in before.trains.items() if any(trains)}
  return all(sums != before.sums[name] for name, sums in model_lib.checksums(training).items())


def audit(model, before):
  """Compares every variable with its checksum before the phase.

  Args:
    model: the `Model` after the phase.
    before: its `State` before.

  Returns:
    {stage: {"variables", "trainable", "changed"}}.

  Raises:
    RunFailed: a frozen variable changed, nothing of a stage that should train did, or the devices no longer agree.
  """
  after = model_lib.checksums(model.stages)
  result = {}
  for name, sums in after.items():
    changed = [a != b for a, b in zip(sums, before.sums[name])]
    wrong = [i for i, c in enumerate(changed) if c and not before.trains[name][i] and not before.moves[name][i]]
    if wrong:
      paths = ", ".join(model.stages[name][i].path for i in wrong[:3])
      raise RunFailed(f"audit: {len(wrong)} frozen variables of stage {name} changed ({paths})")
    apart = [variable.path for variable in model.stages[name] if not model_lib.replicas_agree(variable)]
    if apart:
      raise RunFailed(f"audit: devices disagree on {len(apart)} variables of stage {name} ({', '.join(apart[:3])})")
    trained = [c for c, trains in zip(changed, before.trains[name]) if trains]
    if trained and not any(trained):
      raise RunFailed(f"audit: stage {name} should have trained, but none of its {len(trained)} variables changed")
    result[name] = {"variables": len(sums), "trainable": len(trained), "changed": sum(changed)}
  return result
