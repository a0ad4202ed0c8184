"""Two workers on loopback give what one process gives; losses over several devices; the cost model."""

import glob
import os
import tempfile
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.distribution import cases, cost, launch
from tl_app.commands import run_differences
from tl_app.compute import devices, multi_worker
from tl_app.compute.devices import Devices
from tl_app.errors import RunFailed
from tl_app.training.contrastive import SupervisedContrastiveLoss
from tl_app.training.pretraining.masked_tokens import MaskedTokenLoss
from tl_app.training.pretraining.reconstruct import ReconstructionLoss
from tl_app.training.pretraining.views import ViewsLoss

ONE = Devices(tf.distribute.get_strategy())


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_one_process(tmp_path):
  before = set(glob.glob(os.path.join(tempfile.gettempdir(), "tl_app_worker*")))
  # The second one compares the poolings of a network that no record describes.
  names = ["full, odd batches", "bias_norm"]
  argument = {"paths": cases.world(tmp_path / "world"), "cases": names}
  one = launch.run(argument | {"flags": {"strategy": "single"}, "root": str(tmp_path / "one")})
  two = launch.run(argument | {"flags": {"strategy": "multi_worker"}, "root": str(tmp_path / "two")}, workers=2)
  assert [code for code, _ in one + two] == [0, 0, 0], one + two
  (_, chief), (_, other) = two
  assert "phase full" in chief and "worker 1: " not in chief
  assert all(line.startswith("worker 1: ") for line in other.splitlines() if "tl_app" in line or "warning" in line)
  assert set(glob.glob(os.path.join(tempfile.gettempdir(), "tl_app_worker*"))) == before
  for name in names:
    found = run_differences.largest(*(cases.directory(tmp_path / root, name) for root in ("one", "two")))
    assert max(found.values()) < 1e-5, (name, found)


def test_the_loss_of_a_worker_is_one_line_with_the_reason():
  message = """Graph execution error:

Detected at node allgather/CollectiveGatherV2 defined at (most recent call last):
  File "train.py", line 1, in run

Collective ops is aborted by: failed to connect to all addresses
Error received from /job:worker/replica:0/task:1
"""
  chief = types.SimpleNamespace(place=types.SimpleNamespace(worker=0))
  lost = r"^worker 1 was lost \(Collective ops is aborted by: failed to connect to all addresses\): start"
  with pytest.raises(RunFailed, match=lost), multi_worker.Workers.watched(chief):
    raise tf.errors.UnavailableError(None, None, message)


RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(8, 6, 8)).astype("float32")
# {loss: (the network's outputs from [batch, 6, 8], targets)}. The two devices have different numbers of tokens.
LOSSES = {
  MaskedTokenLoss: (lambda x: x, np.where(np.arange(8)[:, None] < 5, RNG.integers(0, 8, (8, 6)), -1)),
  ReconstructionLoss: (lambda x: x[:, 0], np.where(np.arange(8)[:, None] < 5, RNG.integers(0, 8, (8, 6)), -1)),
  SupervisedContrastiveLoss: (lambda x: keras.ops.normalize(x[:, 0]), RNG.integers(0, 3, 8)),
  ViewsLoss: (lambda x: x[:, 0], np.repeat([3, 4, 3, 5], 2)),
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_loss_over_two_devices_is_that_of_one(loss):
  outputs, targets = LOSSES[loss]
  found = []
  for used in (ONE, devices.make("mirrored", 2)):
    keras.utils.set_random_seed(0)
    with used.scope():
      inputs = keras.Input((6, 8))
      network = keras.Model(inputs, outputs(keras.layers.Dense(8)(inputs)))
      network.compile(keras.optimizers.SGD(0.1), loss())
    batches = tf.data.Dataset.from_tensors((FEATURES, targets)).repeat()
    history = network.fit(batches, steps_per_epoch=2, verbose=0, shuffle=False).history
    found.append((history["loss"][0], *network.get_weights()))
  for one, two in zip(*found):
    np.testing.assert_allclose(two, one, atol=1e-5)


def test_one_worker_decides_and_computes_by_itself():
  assert (ONE.worker, ONE.workers, ONE.is_chief) == (0, 1, True)
  assert ONE.decided(lambda: {"a": 1}) == {"a": 1}
  assert ONE.joined(lambda positions: positions * 2, np.arange(3)).tolist() == [0, 2, 4]
  (led,) = ONE.led(lambda compute: [compute(np.arange(2)) + 1], lambda positions: positions * 2)
  assert led.tolist() == [1, 3]


def test_a_ring_sends_twice_the_gradients_at_most():
  model = cost.Cost(parameters=1e9 / 32, gbit=1, compute=8.0, fixed=1.0, latency=0.0)
  # 1 Gbit of gradients at 1 Gbit/s.
  assert [model.seconds(workers) for workers in (1, 2, 8)] == pytest.approx([9.0, 1 + 4 + 1, 1 + 1 + 1.75])
  assert model.exchange(10**6) == pytest.approx(2.0, abs=1e-3)
