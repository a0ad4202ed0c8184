"""`Devices`: the devices of a run. Several devices, of one machine or of many, give the same results as one."""

import contextlib
import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tl_app.compute import cluster, multi_worker
from tl_app.compute.multi_worker import Workers
from tl_app.errors import UserError


@dataclasses.dataclass(frozen=True)
class Devices:
  """The devices of a run.

  With several workers every worker calls the same methods in the same order: what one of them sends, all receive.

  Attributes:
    strategy: `tf.distribute.Strategy`.
    is_alone: whether this worker computes something by itself, while the others wait.
  """

  strategy: tf.distribute.Strategy
  is_alone: bool = False

  @property
  def replicas(self) -> int:
    """Number of devices that share a batch."""
    return self.strategy.num_replicas_in_sync

  @property
  def worker(self) -> int:
    """Number of this worker, from 0; 0 is the chief, and the number of the only one."""
    return self.strategy.place.worker if isinstance(self.strategy, Workers) else 0

  @property
  def workers(self) -> int:
    """Number of workers: processes that share a batch."""
    return self.strategy.place.workers if isinstance(self.strategy, Workers) else 1

  @property
  def is_chief(self) -> bool:
    """Whether this worker decides, and writes the files of the run."""
    return self.worker == 0

  @property
  def has_gpu(self) -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))

  def describe(self) -> str:
    """Returns how many devices train and of which kind, in words."""
    kind = "GPU" if self.has_gpu else "CPU"
    return f"{self.replicas} ({kind}), which share each batch" if self.replicas > 1 else f"1 ({kind})"

  def scope(self) -> contextlib.AbstractContextManager:
    """Returns the context in which variables are created for these devices."""
    return self.strategy.scope()

  def alone(self) -> "Devices":
    """Returns the same devices for what this worker computes by itself."""
    return dataclasses.replace(self, is_alone=True)

  def distributed(self, dataset: tf.data.Dataset) -> typing.Any:
    """Returns a dataset of global batches as `keras.Model.fit` takes it for these devices."""
    return self.strategy.distributed(dataset) if isinstance(self.strategy, Workers) else dataset

  def decided(self, compute: Callable[[], typing.Any]) -> typing.Any:
    """Returns what `compute` returns on the chief; other workers do not call it.

    Args:
      compute: function of no arguments; with several workers JSON must hold its result.

    Raises:
      UserError, RunFailed: `compute` has raised it on the chief.
    """
    return self.strategy.decide(compute) if self._has_others else compute()

  def arrays(self, compute: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Returns the arrays that `compute` returns on the chief; other workers do not call it."""
    return self.strategy.arrays(compute) if self._has_others else list(compute())

  def joined(self, compute: Callable[[np.ndarray], np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Returns [n, ..], what `compute` returns for n positions; each worker computes its share of them.

    Args:
      compute: function, int [k] -> array [k, ..].
      positions: int [n].
    """
    return self.strategy.joined(compute, positions) if self._has_others else compute(positions)

  def led(
    self, work: Callable[[Callable], Sequence[np.ndarray]], compute: Callable[[np.ndarray], typing.Any]
  ) -> list[np.ndarray]:
    """Returns the arrays that `work` returns on the chief, which may call a function that needs all workers.

    Args:
      work: function, `compute` -> arrays; other workers do not call it.
      compute: function of int [k], which all workers call whenever the chief does.
    """
    if not self._has_others:
      return list(work(compute))
    if not self.is_chief:
      while len(positions := self.arrays(list)) == 1:
        compute(positions[0])
      return self.arrays(list)

    def with_others(positions):
      self.arrays(lambda: [np.asarray(positions)])
      return compute(positions)

    def finished():
      return [np.zeros(0), np.zeros(0)]

    held = []
    try:
      held += work(with_others)
    except Exception as error:
      self.arrays(finished)
      _raise_everywhere(self, error)
    self.arrays(finished)
    return self.arrays(lambda: held)

  def watched(self) -> contextlib.AbstractContextManager:
    """Returns the context in which the loss of another worker is one line."""
    return self.strategy.watched() if isinstance(self.strategy, Workers) else contextlib.nullcontext()

  @property
  def _has_others(self):
    return self.workers > 1 and not self.is_alone


def _raise_everywhere(devices, error):
  """Raises an error of the chief on all workers, which wait for arrays."""

  def fail():
    raise error

  devices.arrays(fail)


def make(strategy: str, num_devices: int, deterministic: bool = False) -> Devices:
  """Returns the `Devices` of --strategy and --num_devices.

  Args:
    strategy: "auto" (mirrored if there are several GPUs), "single", "mirrored" or "multi_worker".
    num_devices: number of devices of "mirrored"; 0 is all. Without GPUs, logical CPU devices are created.
    deterministic: whether TensorFlow uses only ops that give the same result in every run.

  Raises:
    UserError: this machine has fewer devices, TensorFlow has already started, or the other workers cannot be reached.
  """
  gpus = tf.config.get_visible_devices("GPU")
  # TensorFloat-32 has three significant digits; the export check on the CPU allows a difference of 1e-4.
  tf.config.experimental.enable_tensor_float_32_execution(False)
  if deterministic:
    tf.config.experimental.enable_op_determinism()
  place = cluster.join(strategy)
  if place:
    return Devices(multi_worker.connected(place))
  if strategy == "single" or (strategy == "auto" and len(gpus) < 2 and num_devices < 2):
    return Devices(tf.distribute.get_strategy())
  if gpus:
    if num_devices > len(gpus):
      raise UserError(f"--num_devices={num_devices}, but this machine has {len(gpus)} GPU(s)")
    return Devices(_mirrored(tuple(f"GPU:{i}" for i in range(num_devices or len(gpus)))))
  return Devices(_mirrored(_logical_cpus(num_devices or 1)))


@functools.cache
def _mirrored(devices):
  # One strategy per process and set of devices. A second one would reuse the numbers of the first one's collective
  # operations, and TensorFlow would mix them up, for example in a notebook that trains twice.
  return tf.distribute.MirroredStrategy(list(devices))


def _logical_cpus(count):
  existing = tf.config.get_logical_device_configuration(tf.config.list_physical_devices("CPU")[0]) or [None]
  if len(existing) < count:
    try:
      tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * count
      )
    except RuntimeError:
      raise UserError(
        f"--num_devices={count} on a CPU must be chosen before TensorFlow starts: run it in a new process"
      ) from None
  return tuple(f"CPU:{i}" for i in range(count))
