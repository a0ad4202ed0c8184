"""The head of a probe at the start of fine-tuning with dropout."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tl_app import tasks
from tl_app.model import heads
from tl_app.recipes.phase import TaskLoss, Trainable
from tl_app.training import head_scale

LABELS = ["ant", "bee", "cat"] * 8


def prepared(size, dropout, **trains):
  """Returns (what `fit` has prepared, `Features`); the head knows the three classes, with weights `size`."""
  keras.utils.set_random_seed(0)
  task = tasks.TASKS["single_label"].fit(LABELS)
  targets = task.codec.targets(LABELS)
  inputs = keras.Input((3,))
  head = heads.build(3, 3)
  network = keras.Model(inputs, head(keras.layers.Dropout(dropout)(inputs)))
  heads.set_logits(head, (size * np.eye(3, dtype=np.float32), np.zeros(3, np.float32)))
  phase = SimpleNamespace(
    name="fine_tune", trains=Trainable(("top", "head"), **trains), trains_backbone=True, objective=TaskLoss()
  )
  batches = [(np.eye(3, dtype=np.float32)[targets], targets)] * 3
  steps = SimpleNamespace(network=network, loss=lambda: task.loss.loss(0.0))
  features = SimpleNamespace(
    model=SimpleNamespace(task=task, head=head),
    data=SimpleNamespace(train_targets=targets),
    devices=SimpleNamespace(workers=1),
  )
  return SimpleNamespace(phase=phase, feed=SimpleNamespace(dataset=lambda: iter(batches)), steps=steps), features


def test_weights_that_dropout_makes_far_too_large_are_scaled(caplog):
  # Where dropout leaves only the wrong input its answer costs `size`.
  start, features = prepared(60.0, 0.6)
  network, (inputs, targets) = start.steps.network, next(start.feed.dataset())
  inputs[:] = inputs + 0.9
  before = [np.copy(variable) for variable in network.variables]
  with caplog.at_level("INFO"):
    factor = head_scale.apply(start, features)
  assert 0 <= factor < 0.2 and "with dropout the loss of the probe is" in caplog.text
  kernel = features.model.head.get_layer(heads.LOGITS).kernel
  np.testing.assert_allclose(kernel, factor * 60 * np.eye(3), rtol=1e-6)
  # Dropout goes on as if nothing had been measured.
  same = [np.array_equal(old, new) for old, new in zip(before, network.variables)]
  assert same.count(False) <= 1
  loss = start.steps.loss()(targets, network(inputs, training=True))
  assert float(loss) < 1.5 * np.log(3)


@pytest.mark.parametrize(
  ("size", "dropout", "trains"),
  [(6.0, 0.2, {}), (60.0, 0.6, {"reset_head": True})],
)
def test_other_heads_stay_as_they_are(size, dropout, trains):
  start, features = prepared(size, dropout, **trains)
  assert head_scale.apply(start, features) == 1
  assert float(features.model.head.get_layer(heads.LOGITS).kernel[0, 0]) == size


def test_a_run_that_continues_takes_the_factor_that_was_decided():
  start, features = prepared(60.0, 0.6)
  assert head_scale.apply(start, features, {"head_factor": 0.25}) == 0.25
  assert float(features.model.head.get_layer(heads.LOGITS).kernel[0, 0]) == 15
  assert head_scale.apply(None, features) == head_scale.apply(start, features, {"phase": {}}) == 1
