"""tf.data for training and for inference: raw examples in, what the network takes out."""

import itertools
import os
import typing

import numpy as np
import tensorflow as tf

from tl_app.data import modalities
from tl_app.data.examples import Inputs

# Batches of texts among which lengths are sorted: with 64 of 32 texts, movie_reviews and banking77 fill 88 and 81 % of
# their padded tokens, with all batches of a pass 89 and 83 %.
WINDOW = 64
# Batches that are ready before they are asked for, and elements that are made at a time.
AHEAD = 2
PARALLEL = os.cpu_count()
# Apart from the seeds of runs.
_CLASS_SEEDS = 1_000_003
_COPY_SEEDS = 2_000_003


class Step(typing.NamedTuple):
  """One step of an input stream.

  Attributes:
    name: "order", "batch", ..
    apply: function, the dataset of the steps before (None for the first step) -> dataset.
    elements: elements of its dataset that make a batch.
  """

  name: str
  apply: typing.Callable
  elements: int = 1


class MapStep(typing.NamedTuple):
  """A step of an input stream that maps the elements of an "order" step, in the graph.

  Attributes:
    name: "read", "decode", ..
    function: function (value, number, index) -> value, see `Modality.training_steps`.
    targets: tensor [n, ..]; an element of the dataset is (value, the targets at its index).
    elements: elements of its dataset that make a batch.
  """

  name: str
  function: typing.Callable
  targets: tf.Tensor
  elements: int = 1


class NumberedStep(typing.NamedTuple):
  """A step of an input stream that maps the batches, in the graph.

  Attributes:
    name: "mix".
    function: function (number of the batch, batch) -> batch.
    elements: elements of its dataset that make a batch.
  """

  name: str
  function: typing.Callable
  elements: int = 1


def dataset(steps: list[Step | MapStep | NumberedStep], skipped: int = 0) -> tf.data.Dataset:
  """Returns the dataset of the first steps of a stream, or of all.

  Consecutive `MapStep`s run in one function, which costs one hop between threads for all of them.

  Args:
    steps: the steps.
    skipped: number of batches to skip at the beginning. They are neither read nor decoded.
  """
  stream = steps[0].apply(None)
  if skipped:
    stream = stream.skip(skipped * steps[0].elements)
  for is_map, group in itertools.groupby(steps[1:], lambda step: isinstance(step, MapStep)):
    if is_map:
      stream = _enumerated(stream, _in_one(list(group)), skipped * steps[0].elements)
    else:
      for step in group:
        numbered = isinstance(step, NumberedStep)
        stream = _enumerated(stream, step.function, skipped) if numbered else step.apply(stream)
  return stream


def _in_one(steps):
  """Returns the function (number, index) -> (value, targets) of `MapStep`s."""

  def run(number, index):
    value = index
    for step in steps:
      value = step.function(value, number, index)
    return value, tf.gather(steps[0].targets, index)

  return run


def whole(steps: list[Step | MapStep | NumberedStep], skipped: int = 0) -> tf.data.Dataset:
  """Returns the dataset of all steps of a stream, which prepares its next batches meanwhile; see `dataset`."""
  return ahead(dataset(steps, skipped))


def ahead(elements):
  """Returns a dataset that prepares its next `AHEAD` elements meanwhile."""
  return untuned(elements.prefetch(AHEAD))


def untuned(elements):
  """Returns a dataset in which tf.data tunes nothing.

  At the end of a pass an iterator waits for the thread that tunes, which sleeps ever longer: a pass over 750
  photographs took 6 to 7.5 s, and every second time 10.25 (TensorFlow 2.21, 2 cores).
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return elements.with_options(options)


def training_steps(
  inputs: Inputs,
  targets: np.ndarray,
  preprocess: typing.Callable,
  batches: tf.data.Dataset,
  augment: typing.Callable | None = None,
  mix: typing.Callable | None = None,
) -> list[Step | MapStep | NumberedStep]:
  """Returns the steps of the stream (network inputs, targets) of `batches`.

  Args:
    inputs: the inputs of the n training examples and their copies.
    targets: [n, ..], see `LabelCodec.targets`.
    preprocess: `Backbone.preprocess`.
    batches: dataset of int32 [batch_size] positions in `inputs`, see `index_batches` and `token_batches`.
    augment: result of `Modality.augmentation`, or None.
    mix: result of `phase_augmentation.make_mix`, or None.
  """
  modality, targets, batch_size = modalities.of(inputs.modality), tf.constant(targets), batches.element_spec.shape[0]
  order = Step("order", lambda _: batches) if modality.is_batched else _one_by_one(batches, batch_size)
  batch = Step("batch", lambda examples: examples.batch(batch_size, drop_remainder=True))
  functions = modality.training_steps(inputs, preprocess, augment)
  return [
    order,
    *(MapStep(name, function, targets, order.elements) for name, function in functions.items()),
    *([] if modality.is_batched else [batch]),
    *([NumberedStep("mix", lambda number, both: mix(*both, number))] if mix else []),
  ]


def _one_by_one(batches, batch_size):
  return Step("order", lambda _: batches.unbatch(), batch_size)


def _enumerated(elements, function, start=0):
  """Returns the dataset mapped by a function of an element's number, from `start`, and the element."""
  return elements.enumerate(start).map(function, num_parallel_calls=PARALLEL)


def for_inference(
  inputs: Inputs, preprocess: typing.Callable, batch_size: int, lengths: np.ndarray | None = None
) -> tuple[tf.data.Dataset, np.ndarray]:
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
    batches = indices.batch(batch_size).map(step, num_parallel_calls=PARALLEL)
  else:
    batches = indices.map(step, num_parallel_calls=PARALLEL).batch(batch_size)
  return ahead(batches), positions


def inference_order(lengths: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns (order, positions), int64: examples by length, `order` filled up to full batches, `positions` without."""
  positions = np.argsort(lengths, kind="stable")
  return np.concatenate([positions, np.repeat(positions[-1:], -len(positions) % batch_size)]), positions


def restore(outputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
  """Returns the rows of `outputs` [>= n, ..] in the order of the examples, without those that only filled up."""
  ordered = np.empty((len(positions),) + outputs.shape[1:], outputs.dtype)
  ordered[positions] = outputs[: len(positions)]
  return ordered


def feature_steps(
  features: np.ndarray, targets: np.ndarray, batch_size: int, seed: int, classes: np.ndarray | None = None
) -> list[Step]:
  """Returns the steps of an endless stream of full batches (features [batch, width], targets [batch, ..]).

  The order is that of `training_steps`.
  """
  features, targets = tf.constant(features), tf.constant(targets)
  batches = index_batches(len(targets), batch_size, seed, classes=classes)
  return [
    Step("order", lambda _: batches),
    Step("read", lambda indices: indices.map(lambda i: (tf.gather(features, i), tf.gather(targets, i)))),
  ]


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


def index_batches(
  n: int, batch_size: int, seed: int, lengths: np.ndarray | None = None, classes: np.ndarray | None = None
) -> tf.data.Dataset:
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


def token_batches(
  lengths: np.ndarray, tokens: int, seed: int, devices: int = 1, classes: np.ndarray | None = None
) -> tf.data.Dataset:
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


def mean_batch(batches: tf.data.Dataset, n: int) -> float:
  """Returns the mean number of examples in those batches of an endless dataset that hold `n` examples together."""
  count = seen = 0
  for batch in untuned(batches):
    count, seen = count + 1, seen + len(batch)
    if seen >= n:
      break
  return seen / count


def draw_copies(batches: tf.data.Dataset, n: int, count: int, seed: int) -> tf.data.Dataset:
  """Returns `batches` with k * n + i in place of each index i below `n`; k is uniform below `count`."""
  if count == 1:
    return batches

  def draw(number, indices):
    seeds = tf.stack([tf.constant(seed + _COPY_SEEDS, tf.int64), number])
    return indices + n * tf.random.stateless_uniform(tf.shape(indices), seeds, maxval=count, dtype=tf.int32)

  return batches.enumerate().map(draw)


def token_counts(preprocess: typing.Any, texts: Inputs) -> np.ndarray:
  """Returns int32 [n]: the tokens of each of `texts`, `Inputs`, special ones included, nothing truncated."""
  return of_texts(preprocess.count_tokens, texts)


def of_texts(function: typing.Callable, texts: Inputs) -> np.ndarray:
  """Returns [n, ..]: what an in-graph function of string [batch] gives for each of `texts`, `Inputs`."""
  raw = tf.data.Dataset.from_tensor_slices(tf.constant(texts.array(), tf.string)).batch(1024)
  found = list(untuned(raw.map(function)).as_numpy_iterator())
  return np.concatenate(found) if found else np.zeros(0, np.int32)
