"""A training step in parts: the gradients of equal parts of a batch are averaged before the optimizer moves."""

import keras
import tensorflow as tf


def in_parts(network, parts):
  """Returns a `keras.Model` over the layers of `network` whose step runs a batch in `parts`, or `network` itself for 1.

  A step is what it is on the whole batch (the losses here are means over examples), but holds the activations of one
  part at a time. What differs is what looks at several examples at once: BatchNormalization on batch statistics.
  """
  return InParts(network, parts) if parts > 1 else network


class InParts(keras.Model):
  """A functional model with a `train_step` in parts; each device's share of a batch must divide by their number."""

  def __init__(self, network, parts):
    super().__init__(network.input, network.output, name=network.name)
    self._parts = parts

  def train_step(self, data):
    """As of `keras.Model`."""
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    loss, gradients, outputs = self._run_parts(inputs, targets)
    # Keras divides the loss by the number of devices, whose gradients are summed.
    self._loss_tracker.update_state(
      loss * self.distribute_strategy.num_replicas_in_sync, sample_weight=tf.shape(outputs)[0]
    )
    self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
    return self.compute_metrics(inputs, targets, outputs)

  def _run_parts(self, inputs, targets):
    """Returns (mean loss, [mean gradient, or None where a variable takes no part], outputs of the whole batch)."""
    cut_inputs, cut_targets = tf.nest.map_structure(self._cut, (inputs, targets))
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
        total if gradient is None else total + tf.convert_to_tensor(gradient) / self._parts
        for total, gradient in zip(gradients, found)
      ]
      return part + 1, loss + own_loss / self._parts, gradients, outputs.write(part, answers)

    outputs = tf.TensorArray(self.output.dtype, self._parts, element_shape=self.output.shape)
    start = (0, 0.0, [tf.zeros(variable.shape, variable.dtype) for variable in variables], outputs)
    _, loss, gradients, outputs = tf.while_loop(
      lambda part, *_: part < self._parts, add_part, start, parallel_iterations=1, maximum_iterations=self._parts
    )
    gradients = [None if i in unused else gradient for i, gradient in enumerate(gradients)]
    return loss, gradients, outputs.concat()

  def _cut(self, x):
    cut = tf.reshape(x, tf.concat([[self._parts, -1], tf.shape(x)[1:]], axis=0))
    return tf.ensure_shape(cut, [self._parts, None, *x.shape[1:]])
