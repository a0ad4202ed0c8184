"""`Objective`: what a phase minimises. It creates the order of the batches, the network to fit, and the loss."""

import abc
import typing
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones.float32_layers import L2_NORMALIZED
from tl_app.data import pipeline
from tl_app.data.training_data import TrainingData
from tl_app.errors import UserError
from tl_app.model import graphs
from tl_app.preprocessing import text
from tl_app.recipes.phase import Phase, SupervisedContrastive, TaskLoss
from tl_app.training import contrastive


class Objective(abc.ABC):
  """What a phase minimises. Its settings are in `Phase.objective`.

  Attributes:
    fits_head: whether `network` is the backbone with the head. Then its logits are compared on the validation split
      after each epoch, and the outputs of a frozen trunk can be read from disk.
    plans_batches: whether the batches depend on the number of steps of the phase.
  """

  fits_head: bool = True
  plans_batches: bool = False

  def problem(self, task, replicas: int) -> str:
    """Returns why the objective does not work with the task or the number of devices, or ""."""
    return ""

  @abc.abstractmethod
  def index_batches(self, phase: Phase, data: TrainingData, preprocess, replicas: int, seed: int) -> tf.data.Dataset:
    """Returns the endless dataset of int32 [batch] positions in the training split.

    Args:
      phase: the `Phase`.
      data: the `TrainingData`.
      preprocess: `Backbone.preprocess`.
      replicas: number of devices.
      seed: seed of the order.
    """

  @abc.abstractmethod
  def network(self, model, phase: Phase) -> keras.Model:
    """Returns the model to fit, from the backbone's inputs to the inputs of the loss."""

  @abc.abstractmethod
  def loss(self, task, phase: Phase, train_targets: np.ndarray) -> Callable:
    """Returns the loss, a function of (targets, outputs of `network`).

    Args:
      task: the `Task`.
      phase: the `Phase`.
      train_targets: [train, ..], for class weights.
    """

  def weights_classes(self, phase: Phase) -> bool:
    """Returns whether `loss` depends on the training targets."""
    return False

  def sampled_classes(self, phase: Phase, targets: np.ndarray) -> np.ndarray | None:
    """Returns the classes of examples, int [n], if each class is sampled equally often, or None.

    Args:
      phase: the `Phase`.
      targets: [n, ..] of the examples.
    """
    return None

  def keras_metrics(self, task) -> list | None:
    """Returns the Keras metrics of the training batches, or None."""
    return None

  def description(self, phase: Phase) -> str:
    """Returns the description of the objective in the printed plan; "" for the loss of the task."""
    return ""


class _TaskLoss(Objective):
  """The loss of the task on the logits of the head."""

  def index_batches(self, phase, data, preprocess, replicas, seed):
    classes = self.sampled_classes(phase, data.train_targets)
    if phase.inputs.batch_tokens:
      lengths = padded_lengths(data, preprocess)
      return pipeline.token_batches(lengths, phase.inputs.batch_tokens, seed, replicas, classes)
    lengths = None if data.lengths is None else data.lengths[data.train]
    return pipeline.index_batches(len(data.train), phase.inputs.batch_size, seed, lengths, classes)

  def sampled_classes(self, phase, targets):
    return balanced_classes(phase.objective.imbalance, targets)

  def network(self, model, phase):
    return graphs.training_network(model, phase)

  def weights_classes(self, phase):
    return phase.inputs.mixes or phase.objective.imbalance not in ("none", "balanced")

  def loss(self, task, phase, train_targets):
    objective = phase.objective
    if self.weights_classes(phase):
      return task.loss.weighted_loss(objective.label_smoothing, objective.imbalance, train_targets)
    return task.loss.loss(objective.label_smoothing)

  def keras_metrics(self, task):
    return task.loss.keras_metrics()


class _SupervisedContrastive(Objective):
  """The supervised contrastive loss on L2-normalised features, without the head."""

  fits_head = False
  plans_batches = True

  def problem(self, task, replicas):
    if not task.single_label:
      return f"needs exactly one class for each example, not --task={task.name}"
    return ""

  def index_batches(self, phase, data, preprocess, replicas, seed):
    classes = phase.objective.batch_classes
    examples_per_class = phase.inputs.batch_size // classes
    return contrastive.batches(data.train_targets, classes, examples_per_class, phase.schedule.steps, seed)

  def network(self, model, phase):
    return graphs.training_network(model, phase, keras.layers.UnitNormalization(name=L2_NORMALIZED))

  def loss(self, task, phase, train_targets):
    return contrastive.SupervisedContrastiveLoss()

  def description(self, phase):
    return f" ({phase.objective.batch_classes} classes), supervised contrastive loss"


OBJECTIVES: dict[type, Objective] = {TaskLoss: _TaskLoss(), SupervisedContrastive: _SupervisedContrastive()}


def of(phase: Phase) -> Objective:
  """Returns the `Objective` of a phase."""
  return OBJECTIVES[type(phase.objective)]


def balanced_classes(imbalance: str, targets: np.ndarray) -> np.ndarray | None:
  """Returns the classes of examples, int [n], if --imbalance=balanced samples each equally often, or None."""
  return targets if imbalance == "balanced" else None


def padded_lengths(data: TrainingData, preprocess: typing.Any) -> np.ndarray:
  """Returns the padded length of each training example in a batch of similar length, int [train], in tokens.

  With augmented copies it is that of the longest copy.

  Args:
    data: the `TrainingData`.
    preprocess: `Backbone.preprocess`.

  Raises:
    ValueError: the inputs have no tokens.
  """
  if data.lengths is None:
    raise ValueError("the inputs have no tokens")
  lengths = data.lengths[data.train_rows].max(axis=0)
  return text.rounded(lengths, preprocess.max_length or lengths.max())


def mean_token_batch(tokens: int, imbalance: str, data: TrainingData, preprocess, replicas: int, seed: int) -> float:
  """Returns the mean number of examples in a training batch of --batch_tokens.

  Args:
    tokens: value of --batch_tokens.
    imbalance: value of --imbalance.
    data: the `TrainingData`.
    preprocess: `Backbone.preprocess`.
    replicas: number of devices.
    seed: seed of the order.

  Raises:
    UserError: --batch_tokens does not hold one of the longest texts for each device.
  """
  lengths = padded_lengths(data, preprocess)
  longest = lengths.max()
  if tokens < replicas * longest:
    raise UserError(
      f"--batch_tokens={tokens} does not hold a text of {longest} tokens for each device: use {replicas * longest} or "
      "more, or lower --max_length"
    )
  batches = pipeline.token_batches(lengths, tokens, seed, replicas, balanced_classes(imbalance, data.train_targets))
  return pipeline.mean_batch(batches, len(data.train))
