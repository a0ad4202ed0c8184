"""A step in microbatches is the step on the whole batch; batches of different sizes count by their size."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_app.compute import devices as devices_lib
from tl_app.training import optimizers, train_steps

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
    network = train_steps.microbatched(_network(), parts)
    optimizer = optimizers.StagedAdamW(
      optimizers.WarmupSchedule(9, 2),
      lambda v: 1e-2,
      lambda v: True,
      0.1,
      clip_norm=0.5,
      use_ema=True,
      ema_momentum=0.9,
    )
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
  values = []
  watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: values.append(network.get_weights()))
  data = tf.data.Dataset.from_tensor_slices(_data()).batch(ROWS // 3).repeat()
  history = network.fit(data, epochs=3, steps_per_epoch=3, verbose=0, shuffle=False, callbacks=[watch]).history
  assert keras.ops.convert_to_numpy(optimizer.iterations) == 9
  return history, values[-1], network.get_weights()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(("parts", "devices"), [(2, 1), (8, 1), (4, 2)])
def test_a_step_in_microbatches_is_the_step_on_the_whole_batch(parts, devices):
  whole = _fit(1, tf.distribute.get_strategy())
  split = _fit(parts, devices_lib.make("mirrored" if devices > 1 else "single", devices).strategy)
  for name, values in whole[0].items():
    np.testing.assert_allclose(split[0][name], values, rtol=1e-4, err_msg=name)
  for one, other in zip(whole[1] + whole[2], split[1] + split[2]):
    np.testing.assert_allclose(other, one, atol=1e-5)


class RecordShapes(keras.layers.Layer):
  """Records the number of examples of each call, and their length."""

  def __init__(self):
    super().__init__()
    self.shapes = []

  def call(self, x):
    """Returns `x`."""
    recorded = tf.numpy_function(lambda shape: self.shapes.append(tuple(shape[:2])), [tf.shape(x)], [])
    with tf.control_dependencies([recorded]):
      return tf.identity(x)

  def compute_output_spec(self, x):
    """Returns what `call` does."""
    return keras.KerasTensor(x.shape, x.dtype)


def _texts(parts, layer=None, jit=False):
  """Returns (weights before, after) two steps on batches of 8 texts, of 3 and of 12 positions."""
  keras.utils.set_random_seed(0)
  tokens, mask = keras.Input([None], dtype="int32", name="tokens"), keras.Input([None, 1], name="mask")
  x = keras.layers.Embedding(50, 8)(tokens) * mask
  x = keras.layers.Dense(CLASSES)(keras.ops.mean(layer(x) if layer else x, axis=1))
  network = keras.Model({"tokens": tokens, "mask": mask}, x)
  before, network = network.get_weights(), train_steps.microbatched(network, parts, 12)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  network.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit)
  rng = np.random.default_rng(0)
  for length in (3, 12):
    inputs = {"tokens": rng.integers(0, 50, (8, length)), "mask": np.ones((8, length, 1), np.float32)}
    network.fit(inputs, rng.integers(0, CLASSES, 8), batch_size=8, verbose=0, shuffle=False)
  return before, network.get_weights()


@pytest.mark.slow
def test_short_texts_are_split_into_fewer_microbatches():
  record = RecordShapes()
  before, split = _texts(8, record)
  assert record.shapes == [(4, 3)] * 2 + [(1, 12)] * 8
  whole, compiled = _texts(1)[1], _texts(8, jit=True)[1]
  for start, one, other, xla in zip(before, whole, split, compiled):
    assert not np.allclose(start, one, atol=1e-3)
    np.testing.assert_allclose(other, one, atol=1e-6)
    np.testing.assert_allclose(xla, one, atol=1e-6)


def test_one_microbatch_leaves_the_network_as_it_is():
  network = _network()
  assert train_steps.microbatched(network, 1) is network


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_is_weighted_by_its_size(devices):
  """Two small batches move the weights as far as one batch of both, and the loss is the mean over examples."""
  x, y = (values[:24] for values in _data())
  ends, losses = [], []
  for sizes in ([24], [6, 18]):
    keras.utils.set_random_seed(0)
    strategy = devices_lib.make("mirrored" if devices > 1 else "single", devices).strategy
    with strategy.scope():
      inputs = keras.Input(x.shape[1:])
      outputs = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(inputs))
      network = train_steps.size_weighted(keras.Model(inputs, outputs), mean=24)
      # The first gradient must not change the second one.
      network.compile(keras.optimizers.SGD(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = network.get_weights()
    ragged = tf.data.Dataset.from_tensor_slices(tuple(tf.RaggedTensor.from_row_lengths(part, sizes) for part in (x, y)))
    losses += network.fit(ragged, verbose=0, shuffle=False).history["loss"]
    ends.append([end - begin for end, begin in zip(network.get_weights(), start)])
  for one, other in zip(*ends):
    assert np.abs(one).max() > 1e-5
    np.testing.assert_allclose(other, one, rtol=1e-2, atol=1e-6)
  assert losses[1] == pytest.approx(losses[0], rel=1e-3)
  assert train_steps.size_weighted(network, 0) is network


@pytest.mark.slow
@pytest.mark.parametrize("size", [6, 24, 48])
def test_a_batch_is_weighted_by_its_size_if_gradients_are_clipped(size):
  x, y = (values[:size] for values in _data())
  inputs = keras.Input(x.shape[1:])
  outputs = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(inputs))
  network = train_steps.size_weighted(keras.Model(inputs, outputs), mean=24)
  schedule = optimizers.WarmupSchedule(1, 1)
  optimizer = optimizers.StagedAdamW(schedule, lambda v: 1e-2, lambda v: False, clip_norm=1e-3, beta_1=0.0)
  network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  network.fit(x, y, batch_size=size, verbose=0)
  moments = [np.array(moment) for moment in optimizer.first_moments]
  assert np.sqrt(sum(np.square(moment).sum() for moment in moments)) == pytest.approx(1e-3 * size / 24, rel=1e-4)
