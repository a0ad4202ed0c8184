"""Private names of Keras and TensorFlow: each still does what the package needs from it."""

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals


def _network():
  inputs = keras.Input((4,), name="inputs")
  inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="inner_dense")], name="inner")
  return keras.Model(inputs, keras.layers.Dense(2, name="outer_dense")(inner(inputs)), name="outer")


def test_flat_layers_reaches_into_models():
  network = _network()
  names = [layer.name for layer in keras_internals.flat_layers(network)]
  assert names[0] == "outer" and {"inner", "inner_dense", "outer_dense"} <= set(names)
  assert "outer" not in [layer.name for layer in keras_internals.flat_layers(network, include_self=False)]


def test_nodes_are_in_forward_order():
  network = _network()
  assert [node.operation.name for node in keras_internals.nodes(network)] == ["inputs", "inner", "outer_dense"]
  first, *_, last = keras_internals.nodes(network)
  assert not first.input_tensors and last.outputs[0] is network.outputs[0]


def test_constants_are_the_numbers_of_an_operation():
  inputs = keras.Input((4,), name="inputs")
  network = keras.Model(inputs, keras.ops.add(inputs / 255.0, np.ones(4, "float32")))
  first, divide, add = keras_internals.nodes(network)
  assert keras_internals.constants(first) == [] and keras_internals.constants(divide) == [255.0]
  assert [value.shape for value in keras_internals.constants(add)] == [(4,)]


def test_producer_names_the_layer_of_a_tensor():
  network = _network()
  assert keras_internals.producer(network.output).name == "outer_dense"
  assert keras_internals.producer(network.input).name == "inputs"


def test_a_network_is_applied_without_another_operation():
  network = _network()
  inputs = keras.Input((4,), name="others")
  other = keras.Model(inputs, keras_internals.applied(network, inputs))
  assert [node.operation.name for node in keras_internals.nodes(other)] == ["others", "inner", "outer_dense"]
  rows = np.ones((2, 4), "float32")
  np.testing.assert_array_equal(other(rows), network(rows))


def test_variable_id_is_one_for_each_variable():
  variable, other = tf.Variable(1.0), tf.Variable(1.0)
  assert keras_internals.variable_id(variable) == keras_internals.variable_id(variable)
  assert keras_internals.variable_id(variable) != keras_internals.variable_id(other)


class _CountsLoss(keras.Model):
  def train_step(self, data):
    keras_internals.count_loss(self, 2.0, tf.shape(data[0])[0])
    return self.compute_metrics(data[0], data[1], data[1])


def test_count_loss_is_the_loss_of_the_epoch():
  inputs = keras.Input((1,))
  network = _CountsLoss(inputs, keras.layers.Dense(1)(inputs))
  network.compile(loss="mse")
  history = network.fit(np.zeros((6, 1)), np.zeros((6, 1)), batch_size=4, verbose=0).history
  assert history["loss"] == [2.0]


class _Doubled(keras_internals.Adam):
  """Doubles the sum of each gradient, and counts the updates of the averages."""

  averages = 0

  def sum_over_devices(self, grads_and_vars):
    return [(2.0 * gradient, variable) for gradient, variable in super().sum_over_devices(grads_and_vars)]

  def update_averages(self, trainable_variables):
    type(self).averages += 1
    super().update_averages(trainable_variables)


def test_adam_gives_its_state_and_its_steps():
  variables = [keras.Variable([1.0]), keras.Variable([3.0])]
  optimizer = _Doubled(0.1, use_ema=True, ema_momentum=0.5)
  optimizer.build(variables)
  optimizer.apply_gradients([(tf.constant([0.25]), variables[0]), (tf.constant([0.5]), variables[1])])
  assert [optimizer.index_of(variable) for variable in variables] == [0, 1]
  assert optimizer.num_replicas == 1 and int(optimizer.batches) == 1
  np.testing.assert_allclose(optimizer.first_moments[0], [0.1 * 0.5], rtol=1e-5)
  np.testing.assert_allclose(optimizer.second_moments[1], [0.001 * 1.0], rtol=1e-5)
  assert len(optimizer.averaged_variables) == 2


def test_adam_calls_its_steps_in_an_update():
  variable = keras.Variable([1.0])
  optimizer = _Doubled(0.1, use_ema=True, ema_momentum=0.5)
  updates = _Doubled.averages
  optimizer.apply_gradients([(tf.constant([1.0]), variable)])
  np.testing.assert_allclose(optimizer.first_moments[0], [0.1 * 2.0], rtol=1e-5)
  assert _Doubled.averages == updates + 1
