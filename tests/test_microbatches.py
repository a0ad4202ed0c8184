"""A step in parts is the step on the whole batch: weights, averages, figures, on one device and on several."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_app import distribution, microbatches, optimizers

ROWS, CLASSES = 96, 3


def _data():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(ROWS, 16, 16, 3)).astype(np.float32)
  return x, (x.mean(axis=(1, 2)).argmax(axis=1)).astype(np.int32)


def _network():
  inputs = keras.Input((16, 16, 3))
  x = keras.layers.Conv2D(4, 3, strides=4, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
  x = keras.layers.BatchNormalization(trainable=False)(x)
  x = keras.layers.GlobalAveragePooling2D()(x)
  # Its gradient is None.
  scale = keras.ops.stop_gradient(keras.layers.Dense(1, activation="sigmoid")(x))
  return keras.Model(inputs, keras.layers.Dense(CLASSES)(x * scale))


def _fit(parts, strategy):
  """Returns (history, weights after 3 epochs of 3 steps, averaged weights), all with the same start."""
  keras.utils.set_random_seed(0)
  with strategy.scope():
    network = microbatches.in_parts(_network(), parts)
    optimizer = optimizers.StagedAdamW(
      optimizers.WarmupCosine(9, 2), lambda v: 1e-2, lambda v: True, 0.1, clip_norm=0.5, use_ema=True, ema_momentum=0.9
    )
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
  values = []
  watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: values.append(network.get_weights()))
  data = tf.data.Dataset.from_tensor_slices(_data()).batch(ROWS // 3).repeat()
  history = network.fit(data, epochs=3, steps_per_epoch=3, verbose=0, shuffle=False, callbacks=[watch]).history
  assert keras.ops.convert_to_numpy(optimizer.iterations) == 9
  return history, values[-1], network.get_weights()


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(("parts", "devices"), [(2, 1), (8, 1), (4, 2)])
def test_a_step_in_parts_is_the_step_on_the_whole(parts, devices):
  whole = _fit(1, tf.distribute.get_strategy())
  split = _fit(parts, distribution.strategy("mirrored" if devices > 1 else "single", devices))
  for name, values in whole[0].items():
    np.testing.assert_allclose(split[0][name], values, rtol=1e-4, err_msg=name)
  for one, other in zip(whole[1] + whole[2], split[1] + split[2]):
    np.testing.assert_allclose(other, one, atol=1e-5)


def test_one_part_is_the_network_itself():
  network = _network()
  assert microbatches.in_parts(network, 1) is network
