"""The trunk, the frozen stages below those that train, computed once per example and then read from disk.

`Backbone.split` divides a network in two: the trunk below a stage, and the tail from that stage on.
"""

import logging
import math
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tl_app import files
from tl_app.compute import multi_worker
from tl_app.data import modalities, pipeline
from tl_app.features import disk_cache, eviction, inference_engine
from tl_app.features.frozen import Features
from tl_app.model import graphs, variables
from tl_app.preprocessing import text
from tl_app.recipes.phase import Phase

log = logging.getLogger(__name__)

# Memory for the outputs of the trunk between two commits to disk, bytes.
CHUNK_BYTES = 2**28
# float16 halves the file. It is taken if it changes no feature by more than this share of their standard deviation.
HALF_TOLERANCE = 1e-2
HALF_EXAMPLES = 64
# Name of the file that holds the dtype of the rows of a directory.
DTYPE = "dtype"


@keras.saving.register_keras_serializable("tl_app")
class Pack(keras.layers.Layer):
  """Joins the outputs of a trunk into one tensor [batch, positions, width], padded to a fixed number of positions."""

  def __init__(self, positions, **kwargs):
    super().__init__(**kwargs)
    self.positions = positions

  def call(self, outputs):
    """Returns float32 [batch, positions, width] of a list of tensors [batch, length, ..] or, of images, [batch, ..]."""
    columns = []
    for x in outputs:
      shape = keras.ops.shape(x)
      length = shape[1] if self.positions > 1 else 1
      columns.append(keras.ops.cast(keras.ops.reshape(x, (shape[0], length, -1)), "float32"))
    packed = keras.ops.concatenate(columns, axis=-1)
    return tf.pad(packed, [[0, 0], [0, self.positions - tf.shape(packed)[1]], [0, 0]])

  def compute_output_spec(self, outputs):
    """Returns the shape and dtype of `call`'s result."""
    start = 2 if self.positions > 1 else 1
    width = sum(math.prod(x.shape[start:]) for x in outputs)
    return keras.KerasTensor((outputs[0].shape[0], self.positions, width), "float32")


class TrunkFeatures:
  """The outputs of the trunk below a stage for each example, on disk, and the network above it.

  A text has one vector for each of its tokens, an image has one row.

  Attributes:
    network: `keras.Model`, outputs of the trunk -> logits; it shares every variable with the run's network.
    stage: name of the lowest stage of the network.
    width: numbers of a position.
  """

  def __init__(self, features: Features, stage: str):
    """Builds the networks; nothing is computed yet.

    Args:
      features: the `Features` of the run.
      stage: name of the lowest stage of the tail.

    Raises:
      ValueError: the outputs of the trunk are not one vector a position.
    """
    self._features = features
    self.stage = stage
    model = features.model
    backbone = model.backbone
    trunk, self._tail = backbone.split(stage)
    self._has_lengths = modalities.of(backbone.modality).varies_in_length
    size = backbone.preprocess.size
    # The shapes of a convolutional network are known only for inputs of known height and width.
    inputs = backbone.network.input if self._has_lengths else keras.Input((size, size, 3))
    self._outputs = graphs.Trunk(trunk)(inputs)
    self._positions = backbone.preprocess.max_length if self._has_lengths else 1
    # Leading axes of an output that are not part of a vector: batch, and for texts position.
    self._axes = 2 if self._has_lengths else 1
    shapes = [x.shape for x in self._outputs.values()]
    if any(shape[: self._axes] != (None,) * self._axes or None in shape[self._axes :] for shape in shapes):
      raise ValueError(f"the outputs below {stage} are not one vector a position: {shapes}")
    self.width = sum(math.prod(shape[self._axes :]) for shape in shapes)
    self.network = graphs.tail_network(model, stage, self._tail)
    self._packed_trunk = keras.Model(inputs, Pack(self._positions)(list(self._outputs.values())), name="packed_trunk")
    total = len(features.data.inputs)
    self._lengths = np.ones(total, np.int64)
    if self._has_lengths:
      self._lengths = np.minimum(features.data.lengths, self._positions).astype(np.int64)
    self._starts = np.zeros(total, np.int64)
    self._stored = np.zeros((0, self.width), np.float32)

  def needs(self, directory: pathlib.Path, rows: np.ndarray) -> tuple[int, int, bool]:
    """Returns what `eviction.needs` does for the given rows of the data; as float32 until the dtype is chosen."""
    cache = disk_cache.FeatureCache(directory, self.width, _stored_dtype(directory) or "float32")
    sizes = self._lengths[rows] * self.width * cache.dtype.itemsize
    return eviction.needs(cache, self._features.data.hashes[rows], sizes)

  def compute_missing(self, directory: pathlib.Path, rows: np.ndarray) -> None:
    """Computes what `directory` lacks of the given rows of the data, int [n]. Only the chief uses the directory."""
    with self._features.computing(self._packed_trunk) as compute:

      def work(compute):
        try:
          self._compute_missing(directory, rows, self._choose_dtype(directory, rows, compute), compute)
        except OverflowError:
          log.info("trunk features are stored as float32: float16 does not hold all of them")
          cache = disk_cache.FeatureCache(directory, self.width, "float16")
          with cache.locked():
            cache.clear()
            files.write_text(directory / DTYPE, "float32")
          self._compute_missing(directory, rows, "float32", compute)
        return []

      self._features.devices.led(work, compute)
    if self._features.devices.workers > 1:
      self._share(rows)

  def batches(self, index_batches: tf.data.Dataset, rows: np.ndarray, targets: np.ndarray) -> tf.data.Dataset:
    """Returns the stream of batches (outputs of the trunk, targets).

    Args:
      index_batches: dataset of int32 [batch] positions in `rows`.
      rows: int [n], rows of the data.
      targets: [n, ..] of these rows.
    """
    rows, targets = tf.constant(rows), tf.constant(targets)
    return index_batches.map(
      lambda i: (self._read(tf.gather(rows, i)), tf.gather(targets, i)), num_parallel_calls=pipeline.PARALLEL
    )

  def logits(self, rows: np.ndarray) -> np.ndarray:
    """Returns the logits, float32 [n, ..], of the given rows of the data; each worker computes its share."""
    return self._features.devices.joined(self._own_logits, rows)

  def _own_logits(self, rows):
    batch_size = self._features.batch_size
    filled, positions = pipeline.inference_order(self._lengths[rows], batch_size)
    dataset = tf.data.Dataset.from_tensor_slices(rows[filled]).batch(batch_size)
    dataset = pipeline.ahead(dataset.map(self._read, num_parallel_calls=pipeline.PARALLEL))
    return pipeline.restore(multi_worker.predictor(self.network).predict(dataset, verbose=0), positions)

  def _share(self, rows):
    """Gives the other workers the outputs of the chief for the given rows of the data; they keep them in a file."""
    devices, per_part = self._features.devices, max(32, CHUNK_BYTES // (4 * self._positions * self.width))
    file = None if devices.is_chief else tempfile.TemporaryFile()  # noqa: SIM115, the memory map holds it
    for start in range(0, len(rows), per_part):
      part = rows[start : start + per_part]
      (found,) = devices.arrays(lambda part=part: [self._stored[self._positions_of(part)]])
      if file:
        file.write(found.tobytes())
    if file:
      file.flush()
      counts = self._lengths[rows]
      self._starts[rows] = np.cumsum(counts) - counts
      self._stored = np.memmap(file, found.dtype, "r", shape=(int(counts.sum()), self.width))

  def _positions_of(self, rows):
    """Returns where the outputs for the given rows of the data are stored, int [total length]."""
    counts = self._lengths[rows]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(self._starts[rows], counts) + within

  def _compute_missing(self, directory, rows, dtype, compute):
    cache = disk_cache.FeatureCache(directory, self.width, dtype)
    chunk = max(32, CHUNK_BYTES // (4 * self._positions * self.width))

    def ragged(part):
      lengths = self._lengths[rows[part]]
      return [row[:length] for row, length in zip(compute(rows[part]), lengths)]

    hashes = self._features.data.hashes[rows]
    self._starts[rows], _, self._stored = disk_cache.compute_missing(cache, hashes, ragged, chunk)

  def _choose_dtype(self, directory, rows, compute):
    """Returns the dtype of the rows in `directory`, which is measured once."""
    stored = _stored_dtype(directory)
    if stored:
      return stored
    sample = rows[np.linspace(0, len(rows) - 1, min(HALF_EXAMPLES, len(rows))).astype(int)]
    packed = compute(sample)
    # Features, not logits: those of a head that starts at zero show no difference, and the next run has another head.
    exact, halved = (
      keras.ops.convert_to_numpy(self._tail(self._unpack(tf.constant(x)), training=False)["features"])
      for x in (packed, packed.astype(np.float16).astype(np.float32))
    )
    difference = inference_engine.difference(halved, exact)
    dtype = "float16" if difference < HALF_TOLERANCE else "float32"
    with disk_cache.lock(directory):
      # Another run may have measured its own examples meanwhile.
      stored = _stored_dtype(directory)
      if stored:
        return stored
      files.write_text(directory / DTYPE, dtype)
    log.info(
      "trunk features are stored as %s changes features by at most %.1g of their standard deviation",
      *("float16, which" if dtype == "float16" else "float32: float16", difference),
    )
    return dtype

  def _read(self, rows):
    packed = tf.numpy_function(self._gather, [rows], tf.float32, stateful=False)
    return self._unpack(tf.ensure_shape(packed, [None, None if self._has_lengths else 1, self.width]))

  def _gather(self, rows):
    lengths = self._lengths[rows]
    longest = text.rounded(lengths.max(), self._positions)
    packed = np.zeros((len(rows), longest, self.width), np.float32)
    for row, start, length in zip(packed, self._starts[rows], lengths):
      row[:length] = self._stored[start : start + length]
    return packed

  def _unpack(self, packed):
    shapes = {name: x.shape[self._axes :] for name, x in self._outputs.items()}
    columns = tf.split(packed, [math.prod(shape) for shape in shapes.values()], axis=-1)
    lead = tf.shape(packed)[: self._axes]
    unpacked = {}
    for (name, shape), column in zip(shapes.items(), columns):
      output = self._outputs[name]
      reshaped = tf.reshape(column, tf.concat([lead, shape], 0))
      unpacked[name] = tf.cast(tf.ensure_shape(reshaped, output.shape), output.dtype)
    return unpacked


def load(features: Features, phase: Phase) -> TrunkFeatures | None:
  """Returns the `TrunkFeatures` of a phase, computed, or None if its trunk is better run in every step.

  Args:
    features: the `Features` of the run.
    phase: a phase that trains the backbone.
  """
  backbone, store = features.model.backbone, features.store
  lowest = graphs.lowest_active(features.model, phase)
  if store.directory is None or backbone.pairs or not backbone.can_split(lowest):
    return None
  reason = why_not(phase, backbone)
  if reason:
    log.info("the frozen stages run in every step of phase %s: %s", phase.name, reason)
    return None
  try:
    trunk = TrunkFeatures(features, lowest)
  except ValueError as error:
    log.info("the frozen stages run in every step of phase %s: %s", phase.name, error)
    return None
  directory = store.directory / f"trunk-{_key(features, lowest)}"
  rows = np.concatenate([*features.data.train_rows, features.data.validation])
  if not features.devices.decided(lambda: _has_space(trunk, directory, rows, phase, store)):
    return None
  with features.clock("features"):
    log.info("stages below %s: their features are computed once", lowest)
    trunk.compute_missing(directory, rows)
  return trunk


def _has_space(trunk, directory, rows, phase, store):
  """Returns whether to store the features of a `TrunkFeatures` in a directory, and makes space for them."""
  # Features that are written once and read once cost more than one pass.
  if phase.schedule.epochs < 2 and not _stored_dtype(directory):
    return False
  missing, total, writable = trunk.needs(directory, rows)
  if missing and (phase.schedule.epochs < 2 or not writable):
    return False
  if store.has_space(directory, missing, total):
    return True
  log.info(
    "the %.2f GB of features below stage %s are not stored, because of --feature_cache_gb=%g or a full disk: every "
    "step computes them",
    *(total / 1e9, trunk.stage, store.max_gb),
  )
  return False


def why_not(phase: Phase, backbone) -> str:
  """Returns why trunk features cannot serve a phase, or ""."""
  if backbone.preprocess.max_windows > 1:
    return "--long_text=windows reads several sequences of a text"
  inputs = phase.inputs
  if (inputs.augment != "none" and not inputs.augment_copies) or inputs.mixes:
    return "augmented examples differ in every step"
  return ""


def _key(features, lowest):
  backbone = features.model.backbone
  below = list(backbone.stages)[: list(backbone.stages).index(lowest)]
  return disk_cache.key(
    weights=variables.fingerprint({name: backbone.stages[name] for name in below}),
    **backbone.cache_facts(),
    stage=lowest,
    preprocessing=features.preprocessing_facts(),
  )


def _stored_dtype(directory):
  """Returns the dtype of the rows in `directory`, or "" if no whole file says it."""
  path = directory / DTYPE
  content = path.read_text(errors="replace") if path.exists() else ""
  return content if content in ("float16", "float32") else ""
