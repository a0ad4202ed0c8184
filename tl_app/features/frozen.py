"""`Features`: what a network computes for the examples of a run; frozen features are computed once and kept on disk."""

import contextlib
import copy
import dataclasses
import logging
import os
import pathlib

import keras
import numpy as np

from tl_app.compute import multi_worker
from tl_app.compute.devices import Devices
from tl_app.config.groups import MachineConfig
from tl_app.data import modalities, pipeline
from tl_app.data.training_data import TrainingData
from tl_app.errors import RunFailed
from tl_app.features import disk_cache, eviction, inference_engine
from tl_app.features.rows import FeatureRows
from tl_app.model import heads, inference, variables
from tl_app.model.model import Model

log = logging.getLogger(__name__)

# Memory for the features of tokens between two commits to disk, bytes.
TOKEN_FEATURE_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class FeatureStore:
  """The storage of frozen features, and the engine that computes them.

  Attributes:
    directory: of all feature caches; None keeps nothing.
    max_gb: largest size of all caches there, in GB.
    engine: see --frozen_engine.
    reserved: bytes of the disk that are left to the workdir.
  """

  directory: pathlib.Path | None
  max_gb: float
  engine: str
  reserved: float = 0.0

  def has_space(self, directory: pathlib.Path, missing: int, total: int) -> bool:
    """Makes space for features in a cache, see `eviction.evict`; returns whether they fit."""
    return eviction.evict(directory, missing, total, self.max_gb * 1e9, self.reserved)


def store(config: MachineConfig, root: pathlib.Path) -> FeatureStore:
  """Returns the `FeatureStore` that the flags name; `root` is the directory of all caches."""
  choice, directory = config.feature_cache, None
  if choice == "auto":
    directory = root / "features"
  elif choice != "off":
    directory = pathlib.Path(choice)
  return FeatureStore(directory, config.feature_cache_gb, config.frozen_engine)


class Features:
  """The outputs of a run's network and of its frozen backbone.

  Frozen features are computed when they are first asked for, and read from the disk cache where it has them.

  Attributes:
    model: the `Model`.
    data: the `TrainingData`.
    devices: the `Devices`.
    store: the `FeatureStore`.
    batch_size: global number of examples per forward pass without gradients.
    clock: the `workdir.Clock` that measures the time of feature extraction.
  """

  def __init__(self, model: Model, data: TrainingData, devices: Devices, store: FeatureStore, batch_size: int, clock):
    self.model = model
    self.data = data
    self.devices = devices
    self.store = store
    self.batch_size = batch_size
    self.clock = clock
    self._frozen = None

  def with_batch_size(self, batch_size: int) -> "Features":
    """Returns features of the same run that use other batches; what has been computed is not kept."""
    return Features(self.model, self.data, self.devices, self.store, batch_size, self.clock)

  def with_space_for(self, workdir: pathlib.Path, size: float) -> "Features":
    """Returns features of the same run whose caches leave `size` bytes to a workdir on the same disk."""
    store, directory = self.store, self.store.directory
    nearest = next((path for path in (directory, *directory.parents) if path.exists()), None) if directory else None
    if nearest is not None and os.stat(nearest).st_dev == os.stat(workdir).st_dev:
      store = dataclasses.replace(store, reserved=size)
    return Features(self.model, self.data, self.devices, store, self.batch_size, self.clock)

  def with_parts(self, train: np.ndarray, validation: np.ndarray) -> "Features":
    """Returns features of the same model for other training and validation examples, see `TrainingData.with_parts`.

    The frozen features are shared.
    """
    self.frozen()
    found = copy.copy(self)
    found.data = self.data.with_parts(train, validation)
    return found

  def alone(self) -> "Features":
    """Returns features of the same run that this worker computes by itself, while others wait."""
    return Features(self.model, self.data, self.devices.alone(), self.store, self.batch_size, self.clock)

  def predict(self, network: keras.Model, rows: np.ndarray) -> np.ndarray:
    """Returns the output of a network on the backbone's inputs, float32 [len(rows), ..]; each worker has a share.

    Args:
      network: `keras.Model`, or what has its `predict`.
      rows: int [n], rows of the data.
    """
    local = multi_worker.predictor(network)

    def own(rows):
      lengths = None if self.data.lengths is None else self.data.lengths[rows]
      return inference.predict(local, self.model.backbone, self.data.inputs[rows], self.batch_size, lengths)

    return self.devices.joined(own, rows)

  def computing(self, network: keras.Model) -> contextlib.AbstractContextManager:
    """Returns the context of `inference_engine.computing` for a frozen network on the rows of the data."""
    return inference_engine.computing(
      network,
      self.predict,
      self.store.engine,
      self.data.examples.modality,
      self.devices.replicas,
    )

  def frozen(self) -> FeatureRows:
    """Returns the features of the frozen backbone for every row of a split; computed once.

    Raises:
      RunFailed: a feature is NaN or infinite; the message names the example.
    """
    if self._frozen is None:
      with self.clock("features"):
        self._frozen = self._per_token() if self.model.task.per_token else self._per_example()
      self._check_finite()
    return self._frozen

  def recomputed(self) -> FeatureRows:
    """Returns the features of the current backbone, for the training and validation splits only."""
    rows = np.concatenate([self.data.train, self.data.validation])
    return self._one_row_each(rows, self.predict(self.model.features, rows))

  def logits(self, rows: np.ndarray) -> np.ndarray:
    """Returns the logits of the whole network, float32 [len(rows), ..]."""
    return self.predict(self.model.network, rows)

  def head_logits(self, rows: np.ndarray, features: FeatureRows | None = None) -> np.ndarray:
    """Returns the logits of the head on `features`, by default the frozen ones, float32 [len(rows), ..]."""
    features = features or self.frozen()
    return features.by_example(heads.logits(self.model.head, features[rows]), rows)

  def num_missing(self) -> int:
    """Returns the number of rows in use that have no stored feature of the frozen backbone."""
    cache, rows = self._cache(), self.data.used_rows
    if cache is None:
      return len(rows)
    with cache.locked():
      return int(cache.missing(np.unique(self.data.hashes[rows])).sum())

  def preprocessing_facts(self) -> list:
    """Returns what identifies the preprocessing in the key of a cache."""
    preprocess = self.model.backbone.preprocess
    return [preprocess.identity, preprocess.max_length]

  def _per_example(self):
    rows = self.data.used_rows
    with self.computing(self.model.features) as compute:

      def read(compute):
        cache = self._cache_with_space(np.ones(len(rows), np.int64), rows)
        return [disk_cache.features(cache, self.data.hashes[rows], lambda part: compute(rows[part]))]

      (features,) = self.devices.led(read, compute)
    return self._one_row_each(rows, features)

  def _one_row_each(self, rows, features):
    all_rows = np.zeros((len(self.data.inputs), self.model.backbone.feature_size), np.float32)
    all_rows[rows] = features
    return FeatureRows(all_rows)

  def _per_token(self):
    preprocess, width = self.model.backbone.preprocess, self.model.backbone.feature_size
    rows, total = self.data.used_rows, len(self.data.inputs)
    counts, starts = np.zeros(total, np.int64), np.zeros(total, np.int64)
    counts[rows] = pipeline.of_texts(preprocess.count_words, self.data.inputs[rows])[:, 1]
    chunk = max(32, TOKEN_FEATURE_BYTES // (4 * preprocess.max_length * width))
    with self.computing(self.model.features) as compute:

      def read(compute):
        def ragged(part):
          return [row[:count] for row, count in zip(compute(rows[part]), counts[rows[part]])]

        cache = self._cache_with_space(counts[rows], rows)
        return disk_cache.ragged_features(cache, self.data.hashes[rows], ragged, chunk)

      starts[rows], features = self.devices.led(read, compute)
    return FeatureRows(features, starts, counts, preprocess.max_length)

  def _check_finite(self):
    if np.isfinite(self._frozen.rows.sum(dtype=np.float64)):
      return
    used = self.data.used_rows
    # A damaged row that was computed again stays in the file, but no example uses it.
    bad = next((row for row in used if not np.isfinite(self._frozen[np.array([row])]).all()), None)
    if bad is not None:
      examples = self.data.examples
      name = examples.ids[bad] if bad < len(examples) else "a copy of --augment_copies"
      raise RunFailed(f"the features of {name} are not finite: remove it, or choose another backbone")

  def _cache(self):
    """Returns the `FeatureCache` of this backbone, preprocessing and pooling, or None if it is off."""
    backbone = self.model.backbone
    if self.store.directory is None:
      return None
    key = disk_cache.key(
      weights=variables.fingerprint(backbone.stages),
      **backbone.cache_facts(),
      pooling=backbone.spec.pooling,
      preprocessing=self.preprocessing_facts(),
    )
    return disk_cache.FeatureCache(self.store.directory / key, backbone.feature_size)

  def _cache_with_space(self, counts, rows):
    """Returns the `FeatureCache` with space for `counts`, int [n], feature rows of each of `rows`, or None."""
    cache = self._cache()
    if cache is None:
      return None
    missing, total, writable = eviction.needs(cache, self.data.hashes[rows], 4 * cache.width * counts)
    if not writable or self.store.has_space(cache.directory, missing, total):
      return cache
    log.info(
      "the %.2f GB of frozen features are not stored, because of --feature_cache_gb=%g or a full disk: every run "
      "computes them",
      *(total / 1e9, self.store.max_gb),
    )
    return None


def with_lengths(data: TrainingData, backbone) -> TrainingData:
  """Returns the data with the number of tokens of each text; images have none."""
  if not modalities.of(data.examples.modality).varies_in_length:
    return data
  lengths, used = np.zeros(len(data.inputs), np.int32), data.used_rows
  lengths[used] = pipeline.token_counts(backbone.preprocess, data.inputs[used])
  return dataclasses.replace(data, lengths=lengths)


def inference_batch(examples_per_step: int, backbone, devices: Devices) -> int:
  """Returns the global number of examples per forward pass without gradients, a multiple of the devices.

  Args:
    examples_per_step: of training.
    backbone: the `Backbone`.
    devices: the `Devices`.
  """
  batch_size = max(examples_per_step, inference.inference_batch(backbone))
  return max(1, batch_size // devices.replicas) * devices.replicas
