"""Private names of Keras and TensorFlow. No other module of the package uses one.

An upgrade of Keras can change them; `tests/backbones/test_keras_internals.py` has a test for each. The module stands in
`backbones`, the lowest package that works on Keras networks; models, precision, the inference engine and the optimizer
import it from here.
"""

import typing
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf


def flat_layers(layer: keras.Layer, include_self: bool = True) -> list[keras.Layer]:
  """Returns the layers within a layer or model at any depth, and itself unless `include_self` is False."""
  return list(layer._flatten_layers(include_self=include_self))


def nodes(network: keras.Model) -> list:
  """Returns the nodes of a functional model in forward order; a node has `operation`, `input_tensors`, `outputs`."""
  depths = network._nodes_by_depth
  return [node for depth in sorted(depths, reverse=True) for node in depths[depth]]


def constants(node: typing.Any) -> list:
  """Returns the numbers and arrays among the arguments of the operation of a node of `nodes`."""
  arguments = node.arguments
  found = [*arguments.args, *arguments.kwargs.values()] if arguments else []
  return [value for value in found if isinstance(value, (float, int, np.ndarray, tf.Tensor))]


def producer(tensor: keras.KerasTensor) -> keras.Operation:
  """Returns the layer, operation or input that a symbolic tensor comes from."""
  return tensor._keras_history.operation


def applied(network: keras.Model, inputs: keras.KerasTensor) -> typing.Any:
  """Returns the outputs of a functional model on another symbolic input.

  `network.call` adds an operation that converts the input. Its name in a saved graph would be that of the one which the
  next program adds when it has loaded the graph, and Keras wants different names.
  """
  return keras.Function.call(network, inputs)


def variable_id(variable: tf.Variable) -> str:
  """Returns the identity of a variable, the same for each Python object that refers to it."""
  return variable._unique_id


def count_loss(model: keras.Model, loss: tf.Tensor, examples: tf.Tensor) -> None:
  """Adds the mean loss of a batch of `examples` to the epoch's mean, in a `train_step`."""
  model._loss_tracker.update_state(loss, sample_weight=examples)


class Optimizer(keras.optimizers.Optimizer):
  """`keras.optimizers.Optimizer` with its state and two steps of an update under public names.

  A base class beside one of Keras' optimizers: `class Own(keras_internals.Optimizer, keras.optimizers.SGD)`.
  """

  @property
  def averaged_variables(self) -> list:
    """The moving averages of `use_ema`, one for each trainable variable."""
    return self._model_variables_moving_average

  @property
  def batches(self) -> keras.Variable:
    """Number of batches so far. `iterations` counts updates: one for `gradient_accumulation_steps` batches."""
    return self._iterations

  @property
  def num_replicas(self) -> int:
    """Number of devices that train together."""
    return self._distribution_strategy.num_replicas_in_sync

  def index_of(self, variable) -> int:
    """Returns the position of a trainable variable."""
    return self._get_variable_index(variable)

  def sum_over_devices(self, grads_and_vars: Iterable[tuple]) -> list[tuple]:
    """Returns (gradient, variable) pairs, each gradient summed over the devices. A subclass may change the sums."""
    return super()._all_reduce_sum_gradients(grads_and_vars)

  def update_averages(self, trainable_variables: list) -> None:
    """Updates `averaged_variables` after a batch."""
    super()._update_model_variables_moving_average(trainable_variables)

  def assign(self, variable, value):
    """Assigns a value to a variable, if the step makes an update."""
    super().assign(variable, value if self._is_due is None else tf.where(self._is_due, value, variable))

  def assign_add(self, variable, value):
    """Adds a value to a variable, if the step makes an update."""
    super().assign_add(variable, value if self._is_due is None else tf.where(self._is_due, value, 0))

  def assign_sub(self, variable, value):
    """Subtracts a value from a variable, if the step makes an update."""
    super().assign_sub(variable, value if self._is_due is None else tf.where(self._is_due, value, 0))

  # Whether the step that is traced makes an update, bool scalar; None if every step does.
  _is_due = None

  def _backend_apply_gradients(self, grads, trainable_variables):
    every = self.gradient_accumulation_steps
    if not every or self.num_replicas == 1:
      super()._backend_apply_gradients(grads, trainable_variables)
      return
    # TensorFlow cannot assign mirrored variables inside `tf.cond`, with which Keras accumulates.
    due = tf.equal((tf.convert_to_tensor(self._iterations.value) + 1) % every, 0)
    sums = [self._accumulated_gradients[self._get_variable_index(variable)] for variable in trainable_variables]
    grads = [gradient + tf.convert_to_tensor(total.value) for gradient, total in zip(grads, sums)]
    self._is_due = due
    self._backend_update_step([gradient / every for gradient in grads], trainable_variables, self.learning_rate)
    self._is_due = None
    tf.__internal__.distribute.interim.maybe_merge_call(
      _set_each, self._distribution_strategy, [total.value for total in sums], [tf.where(due, 0.0, g) for g in grads]
    )
    if self.use_ema:
      self._update_model_variables_moving_average(self._trainable_variables)

  def _all_reduce_sum_gradients(self, grads_and_vars):
    return self.sum_over_devices(grads_and_vars)

  def _update_model_variables_moving_average(self, trainable_variables):
    self.update_averages(trainable_variables)


def _set_each(strategy, variables, values):
  """Assigns to the copy of a variable on each device the value of that device."""
  for variable, value in zip(variables, values):
    strategy.extended.update(variable, lambda copy, new: copy.assign(new), args=(value,), group=False)


class Adam(Optimizer, keras.optimizers.Adam):
  """`keras.optimizers.Adam` with its state under public names."""

  @property
  def first_moments(self) -> list:
    """One variable for each trainable variable, in the order of `index_of`."""
    return self._momentums

  @property
  def second_moments(self) -> list:
    """One variable for each trainable variable, in the order of `index_of`."""
    return self._velocities
