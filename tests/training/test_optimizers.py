"""Optimizers: a learning rate for each variable, low-rank updates, averages, and the schedules."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_app.compute import devices
from tl_app.data import pipeline
from tl_app.recipes.phase import OptimizerSpec
from tl_app.training import optimizers

# {--optimizer: the optimizer of Keras whose steps it makes}.
KERAS_OWN = {
  "adam": keras.optimizers.Adam,
  "sgd": lambda rate, **decay: keras.optimizers.SGD(rate, momentum=0.9, **decay),
  "lion": keras.optimizers.Lion,
  "lamb": keras.optimizers.Lamb,
  "adafactor": keras.optimizers.Adafactor,
  "muon": lambda rate, weight_decay=None: keras.optimizers.Muon(
    rate, weight_decay=weight_decay, adam_weight_decay=weight_decay
  ),
}


def _fit(optimizer, strategy=None):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(61, 8)).astype("f"), rng.integers(0, 3, 61).astype("int32")
  keras.utils.set_random_seed(0)
  with (strategy or tf.distribute.get_strategy()).scope():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built = optimizer()
    built.build(model.trainable_variables)
    model.compile(built, loss, jit_compile=False)
  data = pipeline.whole(pipeline.feature_steps(x, y, batch_size=16, seed=1))
  before = model.get_weights()
  history = model.fit(data, epochs=3, steps_per_epoch=4, verbose=0, shuffle=False)
  return history.history["loss"], before, model.get_weights()


def _staged(rate_of=lambda v: 1e-2, **more):
  schedule = optimizers.WarmupSchedule(steps=12, warmup_steps=2)
  return lambda: optimizers.StagedAdamW(schedule, rate_of, lambda v: len(v.shape) > 1, weight_decay=0.1, **more)


def test_with_one_learning_rate_it_is_the_adamw_of_keras():
  class Scaled(optimizers.WarmupSchedule):
    def __call__(self, step):
      return 1e-2 * super().__call__(step)

  def adamw():
    optimizer = keras.optimizers.AdamW(Scaled(12, 2), weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer

  for ours, keras_own in zip(_fit(_staged())[2], _fit(adamw)[2]):
    np.testing.assert_allclose(ours, keras_own, atol=1e-6)


@pytest.mark.parametrize("name", KERAS_OWN)
def test_an_optimizer_makes_the_steps_of_keras_at_the_learning_rate_of_each_variable(name):
  class Tenth(optimizers.WarmupSchedule):
    def __call__(self, step):
      return 0.1 * super().__call__(step)

  start = np.random.default_rng(0).normal(size=(4, 3)).astype("f")
  gradients = tf.constant(np.random.default_rng(1).normal(size=(5, 4, 3)).astype("f"))
  fast, slow, alone = (keras.Variable(start, name=kind) for kind in ("fast", "slow", "alone"))
  decay = {} if name == "adam" else {"weight_decay": 0.2}
  ours = optimizers.make(
    OptimizerSpec({}, algorithm=name, **decay),
    *(optimizers.WarmupSchedule(8, 2), lambda v: 0.1 if v is fast else 0.01, lambda v: True, lambda v: 0),
  )
  ours.build([fast, slow])
  own = KERAS_OWN[name](Tenth(8, 2), **decay)
  first = None
  for gradient in gradients:
    ours.apply([gradient, gradient])
    own.apply([gradient], [alone])
    first = first if first is not None else (fast - start, slow - start)
  np.testing.assert_allclose(fast, alone, atol=1e-5)
  # The trust ratio of LAMB is that of a variable that has decayed at its own rate.
  np.testing.assert_allclose(first[1], 0.1 * first[0], rtol=0.05, atol=1e-6)
  assert np.abs(fast - start).max() > 1e-3


def test_muon_moves_the_logits_by_adam():
  layers = [keras.layers.Dense(3, kernel_initializer="ones", name=name) for name in ("logits", "hidden")]
  for layer in layers:
    layer.build((None, 4))
  logits, hidden = (layer.kernel for layer in layers)
  spec = OptimizerSpec({}, algorithm="muon")
  ours = optimizers.make(
    spec, optimizers.WarmupSchedule(4, 0, curve="constant"), lambda v: 0.01, lambda v: 0, lambda v: 0
  )
  ours.build([logits, hidden])
  ours.apply([tf.fill([4, 3], 5.0)] * 2)
  np.testing.assert_allclose(1 - logits, 0.01, rtol=1e-4)
  assert np.abs(1 - hidden - 0.01).min() > 1e-3


def test_a_row_that_occurs_twice_moves_by_the_sum_of_its_gradients():
  def moved(gradient):
    table = keras.Variable(np.ones((4, 2), "f"))
    optimizer = _staged()()
    optimizer.build([table])
    for _ in range(2):
      optimizer.apply([gradient])
    return table.numpy()

  rows = tf.IndexedSlices(tf.constant([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]), tf.constant([1, 1, 3]), [4, 2])
  np.testing.assert_allclose(moved(rows), moved(tf.convert_to_tensor(rows)), atol=1e-7)


def test_a_learning_rate_of_zero_moves_nothing_and_others_scale_the_first_step():
  rates = iter([1e-3, 0.0, 1e-2, 1e-2])
  by_path = {}
  _, before, after = _fit(_staged(lambda v: by_path.setdefault(v.path, next(rates))))
  moved = [np.abs(b - a).max() for b, a in zip(before, after)]
  assert moved[1] == 0
  assert 0 < moved[0] < moved[2]


def test_the_schedule_is_zero_at_the_last_step_and_one_at_its_peak():
  schedule = optimizers.WarmupSchedule(steps=100, warmup_steps=10)
  values = [float(schedule(step)) for step in range(100)]
  assert max(values) == pytest.approx(1.0)
  assert values[-1] == pytest.approx(0.0, abs=1e-7)
  assert values[0] == pytest.approx(0.1)
  assert values[50] == pytest.approx(0.5 * (1 + np.cos(np.pi * 40 / 89)))


@pytest.mark.parametrize(
  ("curve", "first", "middle", "last"),
  [
    ("linear", 0.1, 39 / 89, 0.0),
    ("constant", 0.1, 1.0, 1.0),
    ("steps", 0.1, 0.1, 0.01),
    ("one_cycle", 1 / 25 + 24 / 25 * (1 - np.cos(np.pi / 10)) / 2, (1 + np.cos(np.pi * 50 / 89)) / 2, 0.0),
  ],
)
def test_curves_of_the_schedule(curve, first, middle, last):
  schedule = optimizers.WarmupSchedule(steps=100, warmup_steps=10, curve=curve)
  values = [float(schedule(step)) for step in range(100)]
  assert (values[0], values[60], values[99]) == pytest.approx((first, middle, last), abs=1e-6)
  assert max(values) == pytest.approx(1.0) and np.diff(values[10:]).max() <= 1e-6
  again = optimizers.WarmupSchedule.from_config(schedule.get_config())
  assert float(again(60)) == values[60]


def test_a_schedule_of_one_step_is_not_zero():
  assert float(optimizers.WarmupSchedule(steps=1, warmup_steps=1)(0)) == pytest.approx(1.0)


def test_the_schedule_follows_updates_if_several_batches_make_one():
  schedule = optimizers.WarmupSchedule(steps=47, warmup_steps=5, every=4)
  of_updates = optimizers.WarmupSchedule(steps=11, warmup_steps=2)
  at_updates = [float(schedule(batch)) for batch in range(3, 44, 4)]
  assert at_updates == pytest.approx([float(of_updates(update)) for update in range(11)])
  assert float(optimizers.WarmupSchedule(steps=4, warmup_steps=1, every=4)(3)) == pytest.approx(1.0)


def _rank(variable):
  return 2 if variable.shape == (8, 16) else 0


def test_low_rank_updates_have_that_rank_and_are_in_the_kernel_itself():
  _, before, after = _fit(_staged(rank_of=_rank))
  change = np.linalg.svd(after[0] - before[0], compute_uv=False)
  assert change[1] > 1e-4
  assert change[2] < 1e-6
  whole = np.linalg.svd(_fit(_staged())[2][0] - before[0], compute_uv=False)
  assert whole[2] > 1e-3


def test_low_rank_updates_are_those_of_two_trained_factors():
  """One kernel W0 + A B with A and B trained by Keras' own Adam gives the same kernel."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(32, 8)).astype("f"), rng.normal(size=(32, 16)).astype("f")
  schedule = optimizers.WarmupSchedule(steps=10, warmup_steps=1)
  kernel = keras.Variable(rng.normal(size=(8, 16)).astype("f"), name="kernel")
  start = kernel.numpy()
  ours = optimizers.StagedAdamW(schedule, lambda v: 1e-2, lambda v: True, rank_of=_rank)
  ours.build([kernel])
  down = keras.Variable(ours._low_rank[0][0].numpy())
  up = keras.Variable(np.zeros((2, 16), "f"))

  class Scaled(optimizers.WarmupSchedule):
    def __call__(self, step):
      return 1e-2 * super().__call__(step)

  adam = keras.optimizers.Adam(Scaled(10, 1))
  for _ in range(10):
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean((x @ kernel.value - y) ** 2)
    ours.apply([tape.gradient(loss, kernel.value)], [kernel])
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean((x @ (start + down.value @ up.value) - y) ** 2)
    adam.apply(tape.gradient(loss, [down.value, up.value]), [down, up])
  assert np.abs(kernel.numpy() - start).max() > 1e-3
  np.testing.assert_allclose(kernel.numpy(), start + down.numpy() @ up.numpy(), atol=1e-5)


def test_low_rank_updates_keep_no_moments_of_the_whole_kernel():
  kernel = keras.Variable(np.zeros((64, 64), "f"), name="kernel")
  sizes = {}
  for rank in (0, 2):
    built = optimizers.StagedAdamW(
      optimizers.WarmupSchedule(10, 1), lambda v: 1e-2, lambda v: True, rank_of=lambda v, rank=rank: rank
    )
    built.build([kernel])
    sizes[rank] = sum(int(np.prod(v.shape)) for v in built.variables)
  # What it started from, two factors and their moments, against two moments of the whole.
  assert sizes[2] == 64 * 64 + 3 * 2 * (2 * 64) + 1
  assert sizes[0] == 2 * 64 * 64 + 1


def test_clipping_bounds_the_global_norm():
  variable = keras.Variable(np.zeros(4, "f"))
  schedule = optimizers.WarmupSchedule(steps=10, warmup_steps=0)
  optimizer = optimizers.StagedAdamW(schedule, lambda v: 1.0, lambda v: False, clip_norm=0.5)
  reduced = optimizer.sum_over_devices([(tf.constant([3.0, 0, 4.0, 0]), variable.value)])
  assert np.linalg.norm(reduced[0][0]) == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
  "more",
  [
    {},
    {"clip_norm": 0.1},
    {"rank_of": _rank},
    {"use_ema": True, "ema_momentum": 0.9},
    {"gradient_accumulation_steps": 3, "use_ema": True, "ema_momentum": 0.9, "clip_norm": 0.1, "rank_of": _rank},
  ],
  ids=" ".join,
)
def test_two_devices_give_the_weights_of_one(more):
  # 61 examples in batches of 16: every pass ends in the middle of a batch.
  one_loss, _, one = _fit(_staged(**more))
  two_loss, _, two = _fit(_staged(**more), devices.make("mirrored", 2).strategy)
  np.testing.assert_allclose(one_loss, two_loss, atol=1e-5)
  for a, b in zip(one, two):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_another_optimizer_on_two_devices_gives_the_weights_of_one():
  def optimizer():
    spec = OptimizerSpec({}, weight_decay=0.1, clip_norm=0.5, ema=0.9, algorithm="lion")
    return optimizers.make(
      *(spec, optimizers.WarmupSchedule(12, 2), lambda v: 1e-2, lambda v: len(v.shape) > 1, lambda v: 0)
    )

  one = _fit(optimizer)
  two = _fit(optimizer, devices.make("mirrored", 2).strategy)
  np.testing.assert_allclose(one[0], two[0], atol=1e-5)
  for before, a, b in zip(one[1], one[2], two[2]):
    assert np.abs(a - before).max() > 1e-4
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_averages_start_at_the_first_step_and_take_every_fourth_one():
  optimizer = optimizers.StagedAdamW(
    keras.optimizers.schedules.PolynomialDecay(1.0, 100), lambda v: 0.1, lambda v: True, use_ema=True, ema_momentum=0.9
  )
  variable = keras.Variable(np.arange(3, dtype="float32"))
  optimizer.build([variable])
  values = []
  for number in range(10):
    optimizer.apply_gradients([(tf.constant([1.0, -number, 0.5]), variable)])
    values.append(variable.numpy())
  weights = 0.9 ** np.array([[8], [4], [0]])
  expected = np.sum(weights / weights.sum() * np.stack([values[0], values[3], values[7]]), axis=0)
  assert np.abs(expected - values[-1]).min() > 0.01
  np.testing.assert_allclose(optimizer.averaged_variables[0].numpy(), expected, rtol=1e-5)


def test_averages_count_optimizer_steps_and_not_batches():
  class Always(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
      return keras.ops.ones(())

  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(96, 8)).astype("f"), rng.integers(0, 3, 96).astype("int32")
  found = []
  for every in (1, 3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    steps = {"gradient_accumulation_steps": every} if every > 1 else {}
    optimizer = optimizers.StagedAdamW(
      Always(), lambda v: 1e-2, lambda v: True, weight_decay=0.1, use_ema=True, ema_momentum=0.8, **steps
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # `fit` ends with the averages in the variables.
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(24 // every).repeat()
    model.fit(data, epochs=1, steps_per_epoch=8 * every, verbose=0, shuffle=False)
    found.append(model.get_weights())
  for one, other in zip(*found):
    np.testing.assert_allclose(other, one, atol=1e-6)
