"""Reads encoded images inside a TensorFlow graph; no image is kept in memory."""

import functools

import numpy as np
import tensorflow as tf

from tl_app.data.examples import AugmentedImage, Record, strings


def reader(images):
  """Returns (read, copy), two in-graph functions over images as `Examples` holds them.

  Args:
    images: object array [n] of str, bytes, `Record`, or `AugmentedImage`.

  Returns:
    read: function, index -> the encoded image, string scalar.
    copy: function (image, index) -> the image with its fixed change, float32 [height, width, 3]; None where no image is
      an `AugmentedImage`.
  """
  augmented = [value for value in images if isinstance(value, AugmentedImage)]
  read = _encoded(strings(value.image if isinstance(value, AugmentedImage) else value for value in images))
  if not augmented:
    return read, None
  numbers = tf.constant([value.number if isinstance(value, AugmentedImage) else -1 for value in images], tf.int64)
  change = augmented[0].change
  return read, lambda image, i: tf.cond(numbers[i] < 0, lambda: image, lambda: change(image, numbers[i]))


def _encoded(images):
  """Returns the function index -> encoded image of str, bytes and `Record`s, mixed in any way."""
  positions = {}
  for position, value in enumerate(images):
    positions.setdefault(value.feature if isinstance(value, Record) else type(value), []).append(position)
  if len(positions) < 2:
    return _encoded_of_kind(next(iter(positions), bytes), images)
  readers = [_encoded_of_kind(kind, images[members]) for kind, members in positions.items()]
  kinds, rows = np.zeros(len(images), np.int32), np.zeros(len(images), np.int64)
  for number, members in enumerate(positions.values()):
    kinds[members], rows[members] = number, np.arange(len(members))
  kinds, rows = tf.constant(kinds), tf.constant(rows)
  return lambda i: tf.switch_case(kinds[i], [functools.partial(read, rows[i]) for read in readers])


def _encoded_of_kind(kind, values):
  """As `_encoded`, of values of one kind: `str`, `bytes`, or the name of the feature in `Record`s."""
  if kind in (str, bytes):
    values = tf.constant(list(values), tf.string)
    return lambda i: tf.io.read_file(values[i]) if kind is str else values[i]
  numbers = {}
  files = tf.constant([numbers.setdefault(value.path, len(numbers)) for value in values])
  offsets = tf.constant([value.offset for value in values], tf.int64)
  paths = tf.constant(list(numbers))

  def read(i):
    # tf.data.TFRecordDataset has no argument for the offset; the op has, and reads from there.
    variant = tf.raw_ops.TFRecordDatasetV2(
      filenames=paths[files[i]], compression_type="", buffer_size=0, byte_offsets=offsets[i]
    )
    records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    features = {kind: tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_single_example(records.take(1).get_single_element(), features)[kind]

  return read
