"""Strategies: one device, or several with the same numbers."""

import functools

import tensorflow as tf

from tl_app.errors import UserError


def strategy(name, num_devices):
  """Returns the `tf.distribute.Strategy` of --strategy and --num_devices.

  Args:
    name: "auto" (mirrored when there are several GPUs), "single" or "mirrored".
    num_devices: devices of "mirrored"; 0 is all. Without GPUs, logical CPU devices stand in.
  """
  gpus = tf.config.list_physical_devices("GPU")
  # The export is proven on the CPU to 1e-4; products in TensorFloat-32 keep three digits.
  tf.config.experimental.enable_tensor_float_32_execution(False)
  if name == "single" or (name == "auto" and len(gpus) < 2 and num_devices < 2):
    return tf.distribute.get_strategy()
  if gpus:
    if num_devices > len(gpus):
      raise UserError(f"--num_devices={num_devices}, but this machine has {len(gpus)} GPU(s)")
    return _mirrored(tuple(f"GPU:{i}" for i in range(num_devices or len(gpus))))
  return _mirrored(_logical_cpus(num_devices or 1))


@functools.cache
def _mirrored(devices):
  # One for each set of devices in a process: a second one would number its collective operations from the start again,
  # and TensorFlow takes them for those of the first (a notebook that trains twice).
  return tf.distribute.MirroredStrategy(list(devices))


def _logical_cpus(count):
  have = tf.config.get_logical_device_configuration(tf.config.list_physical_devices("CPU")[0]) or [None]
  if len(have) < count:
    try:
      tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * count
      )
    except RuntimeError:
      raise UserError(
        f"--num_devices={count} on a CPU must be chosen before TensorFlow starts: run it in a fresh process"
      ) from None
  return tuple(f"CPU:{i}" for i in range(count))
