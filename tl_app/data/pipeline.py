"""tf.data for training and for inference: raw examples in, what the network takes out."""

import numpy as np
import tensorflow as tf


def for_training(inputs, targets, preprocess, modality, batch_size, seed):
  """Returns an endless dataset of full batches (network inputs, targets).

  Order: shuffle the indices of a pass (all of them, so it is uniform), then the next pass; read, preprocess, batch.
  Every example comes once per pass; a batch may hold the end of one pass and the start of the next, so no example is
  dropped and every batch divides evenly among devices.

  Args:
    inputs: object array [n] of `Examples.inputs`.
    targets: int32 [n].
    preprocess: `Backbone.preprocess`.
    modality: "text" or "image".
    batch_size: global number of examples per batch.
    seed: int; the same seed gives the same order.
  """
  targets = tf.constant(targets)
  raw, is_path = _raw(inputs, modality)
  indices = _order(len(inputs), seed)
  if modality == "text":
    batches = indices.batch(batch_size, drop_remainder=True)
    dataset = batches.map(
      lambda i: (preprocess(tf.gather(raw, i)), tf.gather(targets, i)), num_parallel_calls=tf.data.AUTOTUNE
    )
  else:
    dataset = indices.map(
      lambda i: (preprocess.one(_read(raw[i], is_path)), targets[i]), num_parallel_calls=tf.data.AUTOTUNE
    ).batch(batch_size, drop_remainder=True)
  return dataset.prefetch(tf.data.AUTOTUNE)


def for_inference(inputs, preprocess, modality, batch_size):
  """Returns (dataset of network inputs, positions): every example once, in full batches.

  Texts come in order of length, so that short ones are not padded to long ones. The last batch is filled up with
  copies of the last example: `restore` drops them again.

  Returns:
    The dataset, and int64 [n]: row k of the concatenated outputs belongs to example positions[k].
  """
  n = len(inputs)
  raw, is_path = _raw(inputs, modality)
  lengths = [_length(text) for text in inputs] if modality == "text" else np.zeros(n)
  positions = np.argsort(lengths, kind="stable")
  filled = np.concatenate([positions, np.repeat(positions[-1:], -n % batch_size)])
  indices = tf.data.Dataset.from_tensor_slices(filled)
  if modality == "text":
    dataset = indices.batch(batch_size).map(
      lambda i: preprocess(tf.gather(raw, i)), num_parallel_calls=tf.data.AUTOTUNE
    )
  else:
    dataset = indices.map(lambda i: preprocess.one(_read(raw[i], is_path)), num_parallel_calls=tf.data.AUTOTUNE).batch(
      batch_size
    )
  return dataset.prefetch(tf.data.AUTOTUNE), positions


def restore(outputs, positions):
  """Returns the rows of `outputs` [>= n, ..] in the order of the examples, without those that only filled up."""
  ordered = np.empty((len(positions),) + outputs.shape[1:], outputs.dtype)
  ordered[positions] = outputs[: len(positions)]
  return ordered


def for_features(features, targets, batch_size, seed):
  """Returns an endless dataset of full batches (features [batch, width], targets [batch]), shuffled as for training."""
  features, targets = tf.constant(features), tf.constant(targets)
  batches = _order(len(targets), seed).batch(batch_size, drop_remainder=True)
  return batches.map(lambda i: (tf.gather(features, i), tf.gather(targets, i))).prefetch(tf.data.AUTOTUNE)


def _order(n, seed):
  """Returns the endless dataset of indices: pass k is a permutation of range(n) that depends on (seed, k) alone.

  `Dataset.shuffle` would give another order to a second iterator, and Keras 3 makes one under a distribution strategy.
  """

  def one_pass(k):
    keys = tf.random.stateless_uniform([n], seed=tf.stack([tf.constant(seed, tf.int64), k]), dtype=tf.float64)
    return tf.data.Dataset.from_tensor_slices(tf.argsort(keys))

  return tf.data.Dataset.counter().flat_map(one_pass)


def read_bytes(inputs, modality):
  """Yields the raw bytes of each input: the UTF-8 text (of a pair a tuple of both), or the encoded image.

  It is what a client of the export sends.
  """
  for value in inputs:
    if isinstance(value, bytes):
      yield value
    elif isinstance(value, tuple):
      yield tuple(text.encode("utf-8") for text in value)
    elif modality == "text":
      yield value.encode("utf-8")
    else:
      with open(value, "rb") as file:
        yield file.read()


def _length(text):
  return len(text) if isinstance(text, str) else max(map(len, text))


def _raw(inputs, modality):
  is_path = modality == "image" and len(inputs) > 0 and isinstance(inputs[0], str)
  return tf.constant(list(inputs), dtype=tf.string), is_path


def _read(value, is_path):
  return tf.io.read_file(value) if is_path else value
