"""The frozen stages below those that train, computed once per example and then read from disk."""

import logging
import math

import keras
import numpy as np
import tensorflow as tf

from tl_app import files
from tl_app.data import modalities, pipeline
from tl_app.features import disk_cache, inference_engine, session
from tl_app.model import graphs
from tl_app.model.variables import fingerprint
from tl_app.preprocessing import text

log = logging.getLogger(__name__)

# Memory for the outputs of the trunk between two commits to disk, bytes.
CHUNK_BYTES = 2**28
# float16 halves what is stored, where it changes no feature by more than this share of their deviation.
HALF_TOLERANCE = 1e-2
HALF_EXAMPLES = 64
# File that says what the rows of a directory are kept as.
DTYPE = "dtype"


@keras.saving.register_keras_serializable("tl_app")
class Pack(keras.layers.Layer):
  """Joins the outputs of a trunk into one tensor [batch, positions, width], positions filled up to a fixed number."""

  def __init__(self, positions, **kwargs):
    super().__init__(**kwargs)
    self.positions = positions

  def call(self, outputs):
    """Returns float32 [batch, positions, width] of a list of tensors [batch, length, ..] or, of images, [batch, ..]."""
    parts = []
    for x in outputs:
      shape = keras.ops.shape(x)
      length = shape[1] if self.positions > 1 else 1
      parts.append(keras.ops.cast(keras.ops.reshape(x, (shape[0], length, -1)), "float32"))
    packed = keras.ops.concatenate(parts, axis=-1)
    return tf.pad(packed, [[0, 0], [0, self.positions - tf.shape(packed)[1]], [0, 0]])

  def compute_output_spec(self, outputs):
    """Returns the shape and dtype of `call`'s result."""
    start = 2 if self.positions > 1 else 1
    width = sum(math.prod(x.shape[start:]) for x in outputs)
    return keras.KerasTensor((outputs[0].shape[0], self.positions, width), "float32")


class TrunkFeatures:
  """What the stages below `stage` give for each example, on disk, and the network above them.

  Of a text that is so many numbers for each of its tokens, of an image one row.

  Attributes:
    network: `keras.Model`, outputs of the trunk -> logits; it shares every variable with the run's network.
  """

  def __init__(self, run, stage):
    backbone = run.model.backbone
    trunk, tail = backbone.split(stage)
    self._run = run
    self._is_text = modalities.of(backbone.modality).varies_in_length
    size = None if self._is_text else backbone.preprocess.size
    # A convolutional network says nothing of height and width until it is given some.
    inputs = backbone.network.input if self._is_text else keras.Input((size, size, 3))
    self._outputs = graphs.Trunk(trunk)(inputs)
    self._positions = backbone.preprocess.max_length if self._is_text else 1
    self._skip = 2 if self._is_text else 1
    shapes = [x.shape for x in self._outputs.values()]
    if any(shape[: self._skip] != (None,) * self._skip or None in shape[self._skip :] for shape in shapes):
      raise ValueError(f"the outputs below {stage} are not one vector a position: {shapes}")
    self.width = sum(math.prod(shape[self._skip :]) for shape in shapes)
    self._features = tail
    self.network = keras.Model(tail.input, graphs.head_on(run.model.head, tail.output), name="tail_head")
    self._trunk = keras.Model(inputs, Pack(self._positions)(list(self._outputs.values())), name="packed_trunk")
    self._lengths = self._count()
    self._starts = np.zeros(len(run.inputs), np.int64)

  def needs(self, directory, indices):
    """Returns what `disk_cache.needs` does of the examples at `indices`; as float32 where nothing is settled."""
    cache = disk_cache.FeatureCache(directory, self.width, _settled(directory) or "float32")
    sizes = self._lengths[indices] * self.width * cache.dtype.itemsize
    return disk_cache.needs(cache, self._run.hashes[indices], sizes)

  def fill(self, directory, indices):
    """Computes what `directory` lacks of the examples at `indices`, int [n].

    Raises:
      OverflowError: float16, which `directory` had settled on, does not hold some of it: from now on it is float32.
    """
    cache = disk_cache.FeatureCache(directory, self.width, self._settle_dtype(directory, indices))
    chunk = max(32, CHUNK_BYTES // (4 * self._positions * self.width))
    hashes = self._run.hashes[indices]

    def rows(part):
      lengths = self._lengths[indices[part]]
      return [row[:length] for row, length in zip(compute(indices[part]), lengths)]

    try:
      with session.frozen(self._run, self._trunk) as compute:
        self._starts[indices], _, self._stored = disk_cache.fill(cache, hashes, rows, chunk)
    except OverflowError:
      log.info("trunk features are kept as float32: float16 does not hold all of them")
      with cache.locked():
        cache.clear()
        files.write_text(directory / DTYPE, "float32")
      raise

  def training_parts(self, phase):
    """Returns the steps of the endless stream (outputs of the trunk, targets), in the order of
    `session.training_parts`."""
    places = self._run.places.ravel()
    targets, places = tf.constant(self._run.labels[places]), tf.constant(places)
    batches = session.index_batches(self._run, phase)

    def read(i):
      return self._read(tf.gather(places, i)), tf.gather(targets, i)

    return [
      pipeline.Step("order", lambda _: batches),
      pipeline.Step("read", lambda indices: indices.map(read, num_parallel_calls=pipeline.PARALLEL)),
    ]

  def logits(self, indices):
    """Returns the logits, float32 [n, classes], of the examples at `indices`."""
    batch_size = session.inference_batch(self._run)
    filled, positions = pipeline.inference_order(self._lengths[indices], batch_size)
    dataset = tf.data.Dataset.from_tensor_slices(indices[filled]).batch(batch_size)
    dataset = pipeline.ahead(dataset.map(self._read, num_parallel_calls=pipeline.PARALLEL))
    return pipeline.restore(self.network.predict(dataset, verbose=0), positions)

  def _count(self):
    if not self._is_text:
      return np.ones(len(self._run.inputs), np.int64)
    return np.minimum(session.token_counts(self._run), self._positions).astype(np.int64)

  def _settle_dtype(self, directory, indices):
    """Returns the dtype of the rows in `directory`, measured once."""
    if not _settled(directory):
      sample = indices[np.linspace(0, len(indices) - 1, min(HALF_EXAMPLES, len(indices))).astype(int)]
      rows = session.predict(self._run, self._trunk, sample)
      # Not of the logits: those of a head that starts at zero hear nothing, and the next run has another head.
      exact, halved = (
        keras.ops.convert_to_numpy(self._features(self._unpack(tf.constant(x)), training=False)["features"])
        for x in (rows, rows.astype(np.float16).astype(np.float32))
      )
      difference = inference_engine.difference(halved, exact)
      dtype = "float16" if difference < HALF_TOLERANCE else "float32"
      log.info(
        "trunk features are kept as %s: float16 changes features by at most %.1g of their deviation", dtype, difference
      )
      files.write_text(directory / DTYPE, dtype)
    return _settled(directory)

  def _read(self, indices):
    packed = tf.numpy_function(self._gather, [indices], tf.float32, stateful=False)
    return self._unpack(tf.ensure_shape(packed, [None, None if self._is_text else 1, self.width]))

  def _gather(self, indices):
    lengths = self._lengths[indices]
    longest = text.rounded(lengths.max(), self._positions)
    packed = np.zeros((len(indices), longest, self.width), np.float32)
    for row, start, length in zip(packed, self._starts[indices], lengths):
      row[:length] = self._stored[start : start + length]
    return packed

  def _unpack(self, packed):
    shapes = {name: x.shape[self._skip :] for name, x in self._outputs.items()}
    parts = tf.split(packed, [math.prod(shape) for shape in shapes.values()], axis=-1)
    lead = tf.shape(packed)[: self._skip]
    return {
      name: tf.cast(tf.ensure_shape(tf.reshape(part, tf.concat([lead, shape], 0)), self._outputs[name].shape), dtype)
      for (name, shape), part, dtype in zip(shapes.items(), parts, (x.dtype for x in self._outputs.values()))
    }


def features(run, phase):
  """Returns the `TrunkFeatures` of a phase, filled, or None where its frozen stages are better run in every step."""
  lowest, backbone = graphs.lowest_active(run.model, phase), run.model.backbone
  directory = session.cache_directory(run)
  if directory is None or backbone.pairs or not backbone.can_split(lowest):
    return None
  if backbone.preprocess.max_windows > 1:
    log.info("--long_text=windows: the frozen stages run in every step")
    return None
  if (phase.augment != "none" and not phase.copies) or phase.mixes:
    log.info("the frozen stages run in every step of phase %s: augmented examples are new each time", phase.name)
    return None
  try:
    made = TrunkFeatures(run, lowest)
  except ValueError as error:
    log.info("the frozen stages run in every step: %s", error)
    return None
  used = np.concatenate([*run.places, run.split.validation])
  below = list(backbone.stages)[: list(backbone.stages).index(lowest)]
  key = disk_cache.key(
    weights=fingerprint({name: backbone.stages[name] for name in below}),
    **backbone.cache_facts(),
    stage=lowest,
    preprocessing=session.preprocessing_identity(run),
  )
  directory /= f"trunk-{key}"
  # To write and read them again would cost more than one pass.
  if phase.epochs < 2 and not _settled(directory):
    return None
  missing, total, writable = made.needs(directory, used)
  if missing and (phase.epochs < 2 or not writable):
    return None
  if not disk_cache.make_room(directory, missing, total, run.config.feature_cache_gb * 1e9):
    log.info(
      "the %.2f GB of features below stage %s are not kept, by --feature_cache_gb=%g or for want of disk: they are "
      "computed in every step",
      *(total / 1e9, lowest, run.config.feature_cache_gb),
    )
    return None
  with run.clock("features"):
    log.info("stages below %s: their features are computed once", lowest)
    try:
      made.fill(directory, used)
    except OverflowError:
      return features(run, phase)
  return made


def _settled(directory):
  """Returns what the rows in `directory` are kept as, or "" where nothing whole says it."""
  path = directory / DTYPE
  text = path.read_text(errors="replace") if path.exists() else ""
  return text if text in ("float16", "float32") else ""
