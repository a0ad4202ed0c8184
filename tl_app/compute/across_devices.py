"""Sums and rows over all devices that share a batch, for losses that are no mean over the examples of one device."""

import tensorflow as tf


def ratio(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
  """Returns a device's part of `total / count` over all devices: the sum of the parts is that ratio.

  It is for losses that return a scalar, which Keras adds up over devices; losses with one value for each example are
  divided by Keras itself.

  Args:
    total: float32 scalar, the sum of a device.
    count: float32 scalar, the number of terms of a device.
  """
  context = _context()
  if context is None:
    return total / tf.maximum(count, 1.0)
  every = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(count))
  return total / tf.maximum(every, 1.0)


def rows(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns (the rows of all devices, in their order; int32 scalar, the position of the first row of this device).

  Gradients flow to the devices that the rows come from.

  Args:
    x: [rows, ..], equally many on each device.
  """
  context = _context()
  if context is None:
    return x, tf.constant(0)
  return context.all_gather(x, axis=0), tf.cast(context.replica_id_in_sync_group, tf.int32) * tf.shape(x)[0]


def _context():
  """Returns the replica context of a step on several devices, or None."""
  context = tf.distribute.get_replica_context()
  return context if context is not None and context.num_replicas_in_sync > 1 else None
