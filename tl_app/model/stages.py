"""Which variables train in a phase, by stage."""

import itertools
import re
from collections.abc import Sequence

import keras
import tensorflow as tf

from tl_app.backbones import keras_internals
from tl_app.errors import UserError
from tl_app.model.model import BackboneWithHead
from tl_app.model.variables import matrix_shape
from tl_app.recipes.phase import ALL, BIAS_NORM, HEAD, KERNELS, Phase

_SMALL = re.compile(r"(^|[_/])(bias|beta|gamma)(_\d+)?$")


def set_trainable(model: BackboneWithHead, phase: Phase) -> None:
  """Makes exactly what `phase` trains trainable, and sets the mode of BatchNormalization; compile again afterwards.

  Raises:
    UserError: the phase trains nothing of the backbone although it should.
  """
  for network in (model.backbone.network, model.head):
    network.trainable = True
  _set_batch_norm(model, phase)
  chosen = {id(variable) for variables in selected(model, phase).values() for variable in variables}
  for variable in (v for variables in model.stages.values() for v in variables):
    variable.trainable = id(variable) in chosen


def selected(model: BackboneWithHead, phase: Phase) -> dict[str, list[keras.Variable]]:
  """Returns {stage: variables that `phase` trains}, stages from the input upwards.

  Raises:
    UserError: nothing of the backbone matches what the recipe asks for.
  """
  result = {
    name: [v for v in variables if id(v) in model.can_train and (name == HEAD or trains(v, name, phase))]
    for name, variables in model.stages.items()
    if name in phase.trains.train_stages
  }
  if phase.trains_backbone and not any(variables for name, variables in result.items() if name != HEAD):
    raise UserError(_nothing_trains(model, phase))
  return result


def _nothing_trains(model, phase):
  """Returns why a phase finds nothing to train, for the user."""
  trains = phase.trains
  names = [name for name in trains.train_stages if name != HEAD]
  if trains.trainable_filter == KERNELS and any(is_kernel(v, name, 1) for name in names for v in model.stages[name]):
    return (
      f"--lora_rank={trains.lora_rank}: updates of this rank are no smaller than the kernels of the stages "
      f"{', '.join(names)}: lower it, or use --recipe=lp_ft"
    )
  kinds = {KERNELS: "dense or convolution kernels", BIAS_NORM: "biases or normalisation"}
  return (
    f"phase {phase.name} finds no {kinds.get(trains.trainable_filter, 'trainable variables')} in the stages "
    f"{', '.join(names)} of {model.backbone.spec.name}: choose other --train_stages or another --recipe"
  )


def that_can_train(model: BackboneWithHead) -> list[str]:
  """Returns the names of the backbone's stages that hold a variable that can train, from the input upwards."""
  return [name for name, vs in model.backbone.stages.items() if any(id(v) in model.can_train for v in vs)]


def trains(variable: keras.Variable, stage: str, phase: Phase) -> bool:
  """Returns whether `phase` trains a variable of a backbone stage that it has chosen."""
  if phase.trains.trainable_filter == ALL:
    return True
  if phase.trains.trainable_filter == BIAS_NORM:
    return is_bias_or_norm(variable)
  if phase.trains.trainable_filter == KERNELS:
    return is_kernel(variable, stage, phase.trains.lora_rank)
  return re.search(phase.trains.trainable_filter, variable.path) is not None


def is_bias_or_norm(variable: keras.Variable) -> bool:
  """Returns whether a variable is a bias, or the shift or scale of a normalisation (attention has biases
  [heads, size])."""
  return len(variable.shape) <= 1 or _SMALL.search(variable.path) is not None


def is_kernel(variable: keras.Variable, stage: str, rank: int) -> bool:
  """Returns whether a variable is a dense or convolution kernel that is larger than its update of rank `rank`.

  Embedding tables are not kernels, and depthwise convolutions (one channel per filter) have nothing to factor.
  """
  # Not the whole path: a model named "..embedder" has kernels.
  names = "/".join([stage, *variable.path.split("/")[-2:]]).lower()
  if is_bias_or_norm(variable) or "embed" in names or variable.shape[-1] == 1:
    return False
  rows, columns = matrix_shape(variable.shape)
  return rank * (rows + columns) < rows * columns


def decays(variable: keras.Variable) -> bool:
  """Returns whether weight decay applies: to matrices and kernels, not to biases and normalisation (Devlin et al.
  2019)."""
  return not is_bias_or_norm(variable) and "norm" not in variable.path.lower()


def batch_norm_modes(model: BackboneWithHead, phase: Phase) -> dict[str, str]:
  """Returns {stage: "frozen", "batch" or "-"}: how the stage's BatchNormalization runs while `phase` trains.

  A backbone with a single mode (a SavedModel) uses batch statistics under `train_unfrozen` only if every stage trains:
  otherwise frozen stages would run on batch statistics and move their own.
  """
  on_batch, backbone = set(), model.backbone
  if not backbone.has_training_mode:
    pass
  elif phase.trains_backbone and phase.trains.bn == "train":
    on_batch = set(model.stages)
  elif phase.trains.bn == "train_unfrozen" and (
    not backbone.single_mode or set(backbone.stages) <= set(phase.trains.train_stages)
  ):
    on_batch = set(phase.trains.train_stages)
  return {
    name: ("batch" if name in on_batch else "frozen") if any(id(v) in model.statistics for v in variables) else "-"
    for name, variables in model.stages.items()
  }


def changing(model: BackboneWithHead, phases: Sequence[Phase]) -> list[keras.Variable]:
  """Returns the variables that `phases` can change: those of the stages that train, and the statistics they move."""
  chosen = {id(v) for phase in phases for name in phase.trains.train_stages for v in model.stages[name]}
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
  layers = (
    keras_internals.flat_layers(network, include_self=False) for network in (model.backbone.network, model.head)
  )
  for layer in itertools.chain.from_iterable(layers):
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.trainable = modes.get(stage_of.get(id(layer.moving_mean), "")) == "batch"
      # The statistics are those of the whole batch. On one device Keras computes them more exactly without this.
      layer.synchronized = layer.trainable and tf.distribute.get_strategy().num_replicas_in_sync > 1
