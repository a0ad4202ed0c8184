"""Per-variable rates are real rates, and the schedule reaches its end."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_app import distribution, optimizers
from tl_app.data import pipeline


def _fit(optimizer, strategy=None):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(61, 8)).astype("f"), rng.integers(0, 3, 61).astype("int32")
  keras.utils.set_random_seed(0)
  with (strategy or tf.distribute.get_strategy()).scope():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(), loss, jit_compile=False)
  data = pipeline.for_features(x, y, batch_size=16, seed=1)
  before = model.get_weights()
  history = model.fit(data, epochs=3, steps_per_epoch=4, verbose=0, shuffle=False)
  return history.history["loss"], before, model.get_weights()


def _staged(rate_of=lambda v: 1e-2):
  schedule = optimizers.WarmupCosine(steps=12, warmup_steps=2)
  return lambda: optimizers.StagedAdamW(schedule, rate_of, decays=lambda v: len(v.shape) > 1, weight_decay=0.1)


def test_one_rate_equals_keras_adamw():
  class Scaled(optimizers.WarmupCosine):
    def __call__(self, step):
      return 1e-2 * super().__call__(step)

  def adamw():
    optimizer = keras.optimizers.AdamW(Scaled(12, 2), weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer

  for ours, keras_own in zip(_fit(_staged())[2], _fit(adamw)[2]):
    np.testing.assert_allclose(ours, keras_own, atol=1e-6)


def test_a_rate_of_zero_does_not_move_and_rates_scale_the_first_step():
  rates = iter([1e-3, 0.0, 1e-2, 1e-2])
  by_path = {}
  _, before, after = _fit(_staged(lambda v: by_path.setdefault(v.path, next(rates))))
  moved = [np.abs(b - a).max() for b, a in zip(before, after)]
  assert moved[1] == 0
  assert 0 < moved[0] < moved[2]


def test_the_last_step_has_rate_zero_and_the_peak_is_one():
  schedule = optimizers.WarmupCosine(steps=100, warmup_steps=10)
  values = [float(schedule(step)) for step in range(100)]
  assert max(values) == pytest.approx(1.0)
  assert values[-1] == pytest.approx(0.0, abs=1e-7)
  assert values[0] == pytest.approx(0.1)
  assert values[50] == pytest.approx(0.5 * (1 + np.cos(np.pi * 40 / 89)))


def test_a_single_step_schedule_moves():
  assert float(optimizers.WarmupCosine(steps=1, warmup_steps=1)(0)) == pytest.approx(1.0)


def test_two_devices_give_the_weights_of_one():
  # 61 examples in batches of 16: every pass ends in the middle of a batch.
  one_loss, _, one = _fit(_staged())
  two_loss, _, two = _fit(_staged(), distribution.strategy("mirrored", 2))
  np.testing.assert_allclose(one_loss, two_loss, atol=1e-5)
  for a, b in zip(one, two):
    np.testing.assert_allclose(a, b, atol=1e-5)
