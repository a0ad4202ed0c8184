"""Training steps that `keras.Model` has not: a batch in equal parts, and batches of various sizes."""

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals


def in_parts(network, parts, longest=1):
  """Returns a `keras.Model` over the layers of `network` whose step runs a batch in `parts`, or `network` itself for 1.

  A step is what it is on the whole batch (the losses here are means over examples), but holds the activations of one
  part at a time. What differs is what looks at several examples at once: BatchNormalization on batch statistics.

  Args:
    network: `keras.Model`.
    parts: of a batch as long as `longest`, as many as its memory needs; a shorter batch is cut into fewer, so that no
      part holds more positions.
    longest: `positions` of an example of that batch.
  """
  return InParts(network, parts, longest) if parts > 1 else network


def of_size(network, mean):
  """Returns a `keras.Model` over the layers of `network` whose gradients count by the size of their batch to `mean`, or
  `network` itself for 0.

  So every example counts the same, whatever batch it is in, also where gradients are clipped.
  """
  return OfSize(network, mean) if mean else network


def positions(network, inputs):
  """Returns how long the examples of a batch are, int32 []: the product of those dimensions which `network` leaves
  open, the greatest of its inputs; 1 for images."""
  found = [tf.constant(1)]
  for expected, x in zip(tf.nest.flatten(network.input), tf.nest.flatten(inputs)):
    open_axes = [axis for axis, size in enumerate(expected.shape) if axis and size is None]
    found.append(tf.reduce_prod(tf.gather(tf.shape(x), tf.constant(open_axes, tf.int32))))
  return tf.reduce_max(tf.stack(found))


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


class OfSize(_OwnStep):
  """A functional model with a `train_step` for batches of various sizes, `mean` on average over all devices."""

  def __init__(self, network, mean):
    super().__init__(network)
    self._mean = mean

  def train_step(self, data):
    """As of `keras.Model`."""
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
      outputs = self(inputs, training=True)
      loss = self.compute_loss(inputs, targets, outputs, training=True)
      size = tf.shape(outputs)[0] * self.distribute_strategy.num_replicas_in_sync
      share = tf.cast(size, loss.dtype) / self._mean
      scaled = self.optimizer.scale_loss(loss * share)
    optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
    # Of several batches it clips the mean, in which the shares are about 1.
    if not optimizer.gradient_accumulation_steps:
      optimizer.clip_share = share
    return self._step(inputs, targets, outputs, loss, tape.gradient(scaled, self.trainable_weights))


class InParts(_OwnStep):
  """A functional model with a `train_step` in parts; each device's share of a batch must divide by their number."""

  def __init__(self, network, parts, longest=1):
    super().__init__(network)
    numbers = np.array([number for number in range(1, parts + 1) if parts % number == 0], np.int32)
    self._numbers = tf.constant(numbers)
    # The most positions of an example in a batch that is cut into so many parts.
    self._limits = tf.constant(longest * numbers // parts)

  def train_step(self, data):
    """As of `keras.Model`."""
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    loss, gradients, outputs = self._run_parts(inputs, targets)
    return self._step(inputs, targets, outputs, loss, gradients)

  def _run_parts(self, inputs, targets):
    """Returns (mean loss, [mean gradient, or None where a variable takes no part], outputs of the whole batch)."""
    place = tf.searchsorted(self._limits[:-1], positions(self, inputs)[None])[0]
    parts = self._numbers[place]
    share = 1 / tf.cast(parts, tf.float32)
    cut_inputs, cut_targets = tf.nest.map_structure(lambda x: _cut(x, parts), (inputs, targets))
    variables, unused = self.trainable_weights, set()

    # A loop of the graph: the parts of an unrolled one would run side by side, and their memory with them.
    def add_part(part, loss, gradients, outputs):
      own, targets = tf.nest.map_structure(lambda x: x[part], (cut_inputs, cut_targets))
      with tf.GradientTape() as tape:
        answers = self(own, training=True)
        own_loss = self.compute_loss(own, targets, answers, training=True)
        scaled = self.optimizer.scale_loss(own_loss)
      found = tape.gradient(scaled, variables)
      unused.update(i for i, gradient in enumerate(found) if gradient is None)
      gradients = [
        total if gradient is None else total + share * tf.convert_to_tensor(gradient)
        for total, gradient in zip(gradients, found)
      ]
      return part + 1, loss + share * own_loss, gradients, outputs.write(part, answers)

    outputs = tf.TensorArray(self.output.dtype, parts, element_shape=self.output.shape)
    start = (0, 0.0, [tf.zeros(variable.shape, variable.dtype) for variable in variables], outputs)
    _, loss, gradients, outputs = tf.while_loop(
      lambda part, *_: part < parts, add_part, start, parallel_iterations=1, maximum_iterations=parts
    )
    gradients = [None if i in unused else gradient for i, gradient in enumerate(gradients)]
    return loss, gradients, outputs.concat()


def _cut(x, parts):
  cut = tf.reshape(x, tf.concat([[parts, -1], tf.shape(x)[1:]], axis=0))
  return tf.ensure_shape(cut, [None, None, *x.shape[1:]])
