"""tf.data for training and for inference: raw examples in, what the network takes out."""

import dataclasses
import os
import typing

import numpy as np
import tensorflow as tf

from tl_app.data import modalities

# Batches of texts among which lengths are sorted: with 64 of 32 texts, movie_reviews and banking77 fill 88 and 81 % of
# their padded tokens, with all batches of a pass 89 and 83 %.
WINDOW = 64
# Batches that are ready before they are asked for, and elements that are made at a time.
AHEAD = 2
PARALLEL = os.cpu_count()
# Apart from the seeds of runs.
_CLASS_SEEDS = 1_000_003
_COPY_SEEDS = 2_000_003


@dataclasses.dataclass(frozen=True)
class Part:
  """One thing that a stream does, and all before it.

  Attributes:
    name: "read", "decode", ..
    make: function of no arguments -> the dataset of the stream up to here.
    elements: of that dataset for a batch.
  """

  name: str
  make: typing.Callable
  elements: int = 1


def for_training(*args, **kwargs):
  """Returns the dataset of (network inputs, targets) of `training_parts`, same arguments."""
  return whole(training_parts(*args, **kwargs))


def whole(parts):
  """Returns the dataset of a stream, given as its `Part`s, that prepares its next batches meanwhile."""
  return ahead(parts[-1].make())


def ahead(dataset):
  """Returns a dataset that prepares its next `AHEAD` elements meanwhile."""
  return untuned(dataset.prefetch(AHEAD))


def untuned(dataset):
  """Returns a dataset in which tf.data tunes nothing.

  At the end of a pass an iterator waits for the thread that tunes, which sleeps ever longer: a pass over 750
  photographs took 6 to 7.5 s, and every second time 10.25 (TensorFlow 2.21, 2 cores).
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return dataset.with_options(options)


def training_parts(inputs, targets, preprocess, batches, augment=None, mix=None):
  """Returns the `Part`s of the stream (network inputs, targets) of `batches`.

  Args:
    inputs: `Inputs`.
    targets: [n, ..], see `Task.targets`.
    preprocess: `Backbone.preprocess`.
    batches: dataset of int32 [batch_size] positions in `inputs`, see `index_batches`; of texts also `token_batches`.
    augment: what `Modality.augmentation` gives, or None.
    mix: what `augmentation.make_mix` gives, or None.
  """
  targets = tf.constant(targets)
  modality = modalities.of(inputs.modality)
  steps = modality.training_steps(inputs, preprocess, augment)
  if modality.is_batched:
    return _mapped(batches, 1, steps, targets)
  batch_size = batches.element_spec.shape[0]
  parts = _mapped(batches.unbatch(), batch_size, steps, targets)
  last = parts[-1].make
  batched = Part("batch", lambda: last().batch(batch_size, drop_remainder=True))
  mixed = Part("mix", lambda: _enumerated(batched.make(), lambda number, batch: mix(*batch, number)))
  return [*parts, batched, *([mixed] if mix else [])]


def _mapped(order, elements, steps, targets):
  """Returns the `Part`s of a dataset of indices and of what is made of each, in one function for all steps together.

  Args:
    order: dataset of indices, int32 [] or [batch_size].
    elements: of it for a batch.
    steps: {name: function, (what the step before gave, number of the element, its index) -> what it gives}; the first
      is given the index.
    targets: tensor [n, ..].
  """

  def upto(count):
    def run(number, i):
      value = i
      for step in list(steps.values())[:count]:
        value = step(value, number, i)
      return value, tf.gather(targets, i)

    return lambda: _enumerated(order, run)

  made = [Part(name, upto(count), elements) for count, name in enumerate(steps, start=1)]
  return [Part("order", lambda: order, elements), *made]


def _enumerated(dataset, function):
  """Returns the dataset mapped by a function of an element's number and the element."""
  return dataset.enumerate().map(function, num_parallel_calls=PARALLEL)


def for_inference(inputs, preprocess, batch_size, lengths=None):
  """Returns (dataset of network inputs, positions): every example once, in full batches.

  Texts come in order of length, so that short ones are not padded to long ones. The last batch is filled up with
  copies of the last example: `restore` drops them again. `lengths` as for training.

  Returns:
    The dataset, and int64 [n]: row k of the concatenated outputs belongs to example positions[k].
  """
  modality = modalities.of(inputs.modality)
  if lengths is None:
    lengths = token_counts(preprocess, inputs) if modality.varies_in_length else np.zeros(len(inputs))
  filled, positions = inference_order(lengths, batch_size)
  indices, step = tf.data.Dataset.from_tensor_slices(filled), modality.inference_step(inputs, preprocess)
  if modality.is_batched:
    dataset = indices.batch(batch_size).map(step, num_parallel_calls=PARALLEL)
  else:
    dataset = indices.map(step, num_parallel_calls=PARALLEL).batch(batch_size)
  return ahead(dataset), positions


def inference_order(lengths, batch_size):
  """Returns (order, positions), int64: examples by length, `order` filled up to full batches, `positions` without."""
  positions = np.argsort(lengths, kind="stable")
  return np.concatenate([positions, np.repeat(positions[-1:], -len(positions) % batch_size)]), positions


def restore(outputs, positions):
  """Returns the rows of `outputs` [>= n, ..] in the order of the examples, without those that only filled up."""
  ordered = np.empty((len(positions),) + outputs.shape[1:], outputs.dtype)
  ordered[positions] = outputs[: len(positions)]
  return ordered


def feature_parts(features, targets, batch_size, seed, classes=None):
  """Returns the `Part`s of an endless stream of full batches (features [batch, width], targets [batch, ..]), in the
  order of `training_parts`."""
  features, targets = tf.constant(features), tf.constant(targets)
  batches = index_batches(len(targets), batch_size, seed, classes=classes)
  read = Part("read", lambda: batches.map(lambda i: (tf.gather(features, i), tf.gather(targets, i))))
  return [Part("order", lambda: batches), read]


def for_features(*args, **kwargs):
  """Returns the endless dataset of full batches of `feature_parts`, same arguments."""
  return whole(feature_parts(*args, **kwargs))


def _order(n, seed, classes=None):
  """Returns the endless dataset of indices: pass k is a permutation of range(n) that depends on (seed, k) alone.

  With `classes`, int [n], each class comes equally often, see `_balanced_order`.
  """
  return _passes(np.arange(n, dtype=np.int32), seed) if classes is None else _balanced_order(classes, seed)


def _passes(values, seed):
  """Returns the endless dataset of the elements of `values` [n]: pass k is an order that depends on (seed, k) alone.

  `Dataset.shuffle` would give another order to a second iterator, and Keras 3 makes one under a distribution strategy.
  """
  values = tf.constant(values)

  def one_pass(k):
    seeds = tf.stack([tf.constant(seed, tf.int64), k])
    keys = tf.random.stateless_uniform(tf.shape(values), seed=seeds, dtype=tf.float64)
    return tf.data.Dataset.from_tensor_slices(tf.gather(values, tf.argsort(keys)))

  return tf.data.Dataset.counter().flat_map(one_pass)


def _balanced_order(classes, seed):
  """Returns the endless dataset of indices: every class once, in a random order, then again.

  Of a class, every example comes once before one comes again. So n steps are no pass: they hold n / (number of
  classes) examples of each, those of a rare class several times, and of a common one only a part.
  """
  members = [np.flatnonzero(classes == name).astype(np.int32) for name in np.unique(classes)]
  streams = [_passes(own, _CLASS_SEEDS * (seed + 1) + number) for number, own in enumerate(members)]
  return tf.data.Dataset.choose_from_datasets(streams, _passes(np.arange(len(streams), dtype=np.int64), seed))


def index_batches(n, batch_size, seed, lengths=None, classes=None):
  """Returns the endless dataset of int32 [batch_size] indices below `n`.

  The indices of a pass are shuffled (all of them, so it is uniform), then the next pass: every example comes once per
  pass. A batch may hold the end of one pass and the start of the next, so no example is dropped and every batch divides
  evenly among devices.
  With `lengths`, int [n], the examples of a batch are alike in length: of `WINDOW` batches' worth of examples that
  follow each other at random, the shortest make one batch, the next shortest another; then these are shuffled.
  With `classes`, int [n], each class comes equally often.
  """
  indices = _order(n, seed, classes)
  if lengths is None:
    return indices.batch(batch_size, drop_remainder=True)
  lengths = tf.constant(lengths, tf.int32)
  window = max(1, min(WINDOW, len(lengths) // batch_size))

  def sort(k, members):
    members = tf.gather(members, tf.argsort(tf.gather(lengths, members), stable=True))
    keys = tf.random.stateless_uniform([window], seed=tf.stack([tf.constant(seed, tf.int64), k]))
    batches = tf.gather(tf.reshape(members, [window, batch_size]), tf.argsort(keys))
    return tf.data.Dataset.from_tensor_slices(batches)

  return indices.batch(window * batch_size, drop_remainder=True).enumerate().flat_map(sort)


def token_batches(lengths, tokens, seed, devices=1, classes=None):
  """Returns the endless dataset of int32 [k] indices of texts: as many of like length as fill up to `tokens` tokens.

  The order is that of `index_batches` with lengths; the shortest texts of a window make its last, smaller batch.

  Args:
    lengths: int [n] of the texts as the network is given them; `devices` of the longest have `tokens` at most.
    tokens: of a batch, padding included.
    seed, classes: as of `index_batches`.
    devices: every batch is a multiple of their number.
  """
  # A module that reads strings finds no word in some.
  lengths = np.maximum(np.asarray(lengths, np.int32), 1)
  window = max(devices, min(len(lengths), int(WINDOW * tokens / lengths.mean())) // devices * devices)
  lengths = tf.constant(lengths)

  def cut(k, members):
    own = tf.gather(lengths, members)
    longest_first = tf.argsort(own, direction="DESCENDING", stable=True)
    members, own = tf.gather(members, longest_first), tf.gather(own, longest_first)

    def add(start, sizes):
      size = tf.minimum(tokens // own[start] // devices * devices, window - start)
      return start + size, tf.concat([sizes, [size]], axis=0)

    shapes = tf.TensorShape([]), tf.TensorShape([None])
    _, sizes = tf.while_loop(lambda start, _: start < window, add, (0, tf.zeros([0], tf.int32)), shapes)
    ends = tf.cumsum(sizes)
    keys = tf.random.stateless_uniform(tf.shape(sizes), seed=tf.stack([tf.constant(seed, tf.int64), k]))
    batches = tf.data.Dataset.from_tensor_slices(tf.argsort(keys))
    return batches.map(lambda i: members[ends[i] - sizes[i] : ends[i]])

  return _order(len(lengths), seed, classes).batch(window, drop_remainder=True).enumerate().flat_map(cut)


def mean_batch(batches, n):
  """Returns the mean number of examples in those batches of an endless dataset that hold `n` examples together."""
  count = seen = 0
  for batch in untuned(batches):
    count, seen = count + 1, seen + len(batch)
    if seen >= n:
      break
  return seen / count


def draw_copies(batches, n, count, seed):
  """Returns `batches` with k * n + i in place of each index i below `n`, k drawn evenly below `count`."""
  if count == 1:
    return batches

  def draw(number, indices):
    seeds = tf.stack([tf.constant(seed + _COPY_SEEDS, tf.int64), number])
    return indices + n * tf.random.stateless_uniform(tf.shape(indices), seeds, maxval=count, dtype=tf.int32)

  return batches.enumerate().map(draw)


def token_counts(preprocess, texts):
  """Returns int32 [n]: the tokens of each of `texts`, `Inputs`, special ones included, nothing truncated."""
  return of_texts(preprocess.count_tokens, texts)


def of_texts(function, texts):
  """Returns [n, ..]: what an in-graph function of string [batch] gives for each of `texts`, `Inputs`."""
  raw = tf.data.Dataset.from_tensor_slices(tf.constant(texts.array(), tf.string)).batch(1024)
  found = list(untuned(raw.map(function)).as_numpy_iterator())
  return np.concatenate(found) if found else np.zeros(0, np.int32)
