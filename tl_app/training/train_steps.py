"""Training steps that `keras.Model` does not have: microbatches, and batches of different sizes."""

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals


def microbatched(network: keras.Model, microbatches: int, longest: int = 1) -> keras.Model:
  """Returns a model over the layers of `network` that computes a training step in microbatches.

  A step does what it does on the whole batch (the losses here are means over examples), but holds the activations of
  one microbatch at a time. Only layers that look at several examples at once differ: BatchNormalization on batch
  statistics.

  Args:
    network: `keras.Model`.
    microbatches: number of equal parts of a batch whose examples have `longest` positions; 1 returns `network` itself.
      A batch of shorter examples is divided into fewer, so that no microbatch holds more positions.
    longest: `positions` of an example of that batch.
  """
  return MicrobatchModel(network, microbatches, longest) if microbatches > 1 else network


def size_weighted(network: keras.Model, mean: int) -> keras.Model:
  """Returns a model over the layers of `network` whose gradients are scaled by batch size / `mean`.

  So every example has equal weight, whatever the size of its batch, even if gradients are clipped.

  Args:
    network: `keras.Model`.
    mean: mean number of examples in a batch, over all devices; 0 returns `network` itself.
  """
  return SizeWeightedModel(network, mean) if mean else network


def positions(network: keras.Model, inputs) -> tf.Tensor:
  """Returns the length of the examples of a batch, int32 scalar: 1 for images.

  It is the product of the dimensions that `network` leaves open, the largest one of its inputs.
  """
  lengths = [tf.constant(1)]
  for expected, x in zip(tf.nest.flatten(network.input), tf.nest.flatten(inputs)):
    open_axes = [axis for axis, size in enumerate(expected.shape) if axis and size is None]
    lengths.append(tf.reduce_prod(tf.gather(tf.shape(x), tf.constant(open_axes, tf.int32))))
  return tf.reduce_max(tf.stack(lengths))


class _OwnStep(keras.Model):
  """A functional model over the layers of another one."""

  def __init__(self, network):
    super().__init__(network.input, network.output, name=network.name)

  def _step(self, inputs, targets, outputs, loss, gradients):
    """Ends a `train_step`: counts the loss, applies the gradients and returns the metrics."""
    # Keras divides the loss by the number of devices, whose gradients are summed.
    keras_internals.count_loss(self, loss * self.distribute_strategy.num_replicas_in_sync, tf.shape(outputs)[0])
    self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
    return self.compute_metrics(inputs, targets, outputs)


class SizeWeightedModel(_OwnStep):
  """A functional model with a `train_step` for batches of different sizes, see `size_weighted`."""

  def __init__(self, network, mean):
    super().__init__(network)
    self._mean = mean

  def train_step(self, data):
    """Makes one training step; see `keras.Model.train_step`."""
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
      outputs = self(inputs, training=True)
      loss = self.compute_loss(inputs, targets, outputs, training=True)
      size = tf.shape(outputs)[0] * self.distribute_strategy.num_replicas_in_sync
      share = tf.cast(size, loss.dtype) / self._mean
      scaled = self.optimizer.scale_loss(loss * share)
    optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
    # With accumulated gradients the optimizer clips their mean, in which the shares average to about 1.
    if not optimizer.gradient_accumulation_steps:
      optimizer.clip_share = share
    return self._step(inputs, targets, outputs, loss, tape.gradient(scaled, self.trainable_weights))


class MicrobatchModel(_OwnStep):
  """A functional model with a `train_step` in microbatches, see `microbatched`.

  Each device's share of a batch must be divisible by their number.
  """

  def __init__(self, network, microbatches, longest=1):
    super().__init__(network)
    divisors = np.array([n for n in range(1, microbatches + 1) if microbatches % n == 0], np.int32)
    self._divisors = tf.constant(divisors)
    # Largest number of positions of an example in a batch that is divided into so many microbatches.
    self._limits = tf.constant(longest * divisors // microbatches)

  def train_step(self, data):
    """Makes one training step; see `keras.Model.train_step`."""
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    loss, gradients, outputs = self._run_microbatches(inputs, targets)
    return self._step(inputs, targets, outputs, loss, gradients)

  def _run_microbatches(self, inputs, targets):
    """Returns (mean loss, [mean gradient, or None for a variable without one], outputs of the whole batch)."""
    index = tf.searchsorted(self._limits[:-1], positions(self, inputs)[None])[0]
    count = self._divisors[index]
    share = 1 / tf.cast(count, tf.float32)
    inputs, targets = tf.nest.map_structure(lambda x: _divided(x, count), (inputs, targets))
    variables, unused = self.trainable_weights, set()

    # A loop of the graph: unrolled microbatches would run side by side, and hold their memory together.
    def add(number, loss, gradients, outputs):
      x, y = tf.nest.map_structure(lambda x: x[number], (inputs, targets))
      with tf.GradientTape() as tape:
        answers = self(x, training=True)
        microbatch_loss = self.compute_loss(x, y, answers, training=True)
        scaled = self.optimizer.scale_loss(microbatch_loss)
      new = tape.gradient(scaled, variables)
      unused.update(i for i, gradient in enumerate(new) if gradient is None)
      gradients = [
        total if gradient is None else total + share * tf.convert_to_tensor(gradient)
        for total, gradient in zip(gradients, new)
      ]
      return number + 1, loss + share * microbatch_loss, gradients, outputs.write(number, answers)

    outputs = tf.TensorArray(self.output.dtype, count, element_shape=self.output.shape)
    start = (0, 0.0, [tf.zeros(variable.shape, variable.dtype) for variable in variables], outputs)
    _, loss, gradients, outputs = tf.while_loop(
      lambda number, *_: number < count, add, start, parallel_iterations=1, maximum_iterations=count
    )
    gradients = [None if i in unused else gradient for i, gradient in enumerate(gradients)]
    return loss, gradients, outputs.concat()


def _divided(x, count):
  divided = tf.reshape(x, tf.concat([[count, -1], tf.shape(x)[1:]], axis=0))
  return tf.ensure_shape(divided, [None, None, *x.shape[1:]])
