"""`Devices`: the devices of a run. Several devices give the same results as one."""

import contextlib
import dataclasses
import functools

import tensorflow as tf

from tl_app.errors import UserError


@dataclasses.dataclass(frozen=True)
class Devices:
  """The devices of a run.

  Attributes:
    strategy: `tf.distribute.Strategy`.
  """

  strategy: tf.distribute.Strategy

  @property
  def replicas(self) -> int:
    """Number of devices that share a batch."""
    return self.strategy.num_replicas_in_sync

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


def make(strategy: str, num_devices: int, deterministic: bool = False) -> Devices:
  """Returns the `Devices` of --strategy and --num_devices.

  Args:
    strategy: "auto" (mirrored if there are several GPUs), "single" or "mirrored".
    num_devices: number of devices of "mirrored"; 0 is all. Without GPUs, logical CPU devices are created.
    deterministic: whether TensorFlow uses only ops that give the same result in every run.

  Raises:
    UserError: this machine has fewer devices, or TensorFlow has already started.
  """
  gpus = tf.config.get_visible_devices("GPU")
  # TensorFloat-32 has three significant digits; the export check on the CPU allows a difference of 1e-4.
  tf.config.experimental.enable_tensor_float_32_execution(False)
  if deterministic:
    tf.config.experimental.enable_op_determinism()
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
