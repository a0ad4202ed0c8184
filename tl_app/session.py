"""`Session`: what the steps of one run share, and what each of them asks the network."""

import contextlib
import dataclasses
import pathlib
import time

import numpy as np
import tensorflow as tf

from tl_app import augmentation, callbacks, contrast, feature_cache, heads, recipes
from tl_app import config as config_lib
from tl_app import model as model_lib
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets, cache_root
from tl_app.data import pipeline, splits
from tl_app.data.examples import Examples
from tl_app.feature_rows import FeatureRows

# Memory for the features of words between two commits to disk, bytes.
WORD_FEATURE_BYTES = 2**28


@dataclasses.dataclass
class Session:
  """What the steps of one run share.

  Attributes:
    config: the `Config`.
    paths: the `Workdir`.
    assets: the `Assets`.
    strategy: the `tf.distribute.Strategy`.
    examples: the `Examples`; `labels`, [n, ..], are their targets, see `Task.targets`.
    split: the `Splits`.
    model: the `Model`; its `task` tells what the targets and the logits mean.
    why: why it is that task.
    augment: what --augment does to the examples of a training stream, see `augmentation.make`; or None.
    features: `FeatureRows` of the frozen backbone, once they were needed.
    tokens: what `token_counts` gives, once it was needed.
    seconds: {"features", "train", "evaluate", "export"}.
    deadline: of --max_minutes, as `time.monotonic`, or None.
    cut: {name of a phase that --max_minutes cut: the `Phase` that was left of it, or None}.
    forward_batch: examples per forward pass without gradients that --batch_size=auto found to fit, or None.
    profiled: whether --profile_input has measured.
  """

  config: config_lib.Config
  paths: workdir_lib.Workdir
  assets: Assets
  strategy: tf.distribute.Strategy
  examples: Examples
  labels: np.ndarray
  split: splits.Splits
  model: model_lib.Model
  why: str
  augment: object = None
  features: FeatureRows | None = None
  tokens: np.ndarray | None = None
  deadline: float | None = None
  cut: dict = dataclasses.field(default_factory=dict)
  forward_batch: int | None = None
  profiled: bool = False
  seconds: dict = dataclasses.field(
    default_factory=lambda: {"features": 0.0, "train": 0.0, "evaluate": 0.0, "export": 0.0}
  )

  @contextlib.contextmanager
  def clock(self, name):
    """Adds the block's seconds to `seconds[name]`."""
    start = time.monotonic()
    try:
      yield
    finally:
      self.seconds[name] += time.monotonic() - start


def predict(run, network, indices, verbose=0):
  """Returns `network`'s output for the examples at `indices`, float32 [len, ..]."""
  inputs, lengths = run.examples.inputs[indices], _lengths(run, indices)
  return model_lib.predict(network, run.model.backbone, inputs, inference_batch(run), verbose, lengths)


def token_counts(run):
  """Returns int32 [n]: the tokens of each text of a split, special ones included, nothing cut; counted once."""
  if run.tokens is None:
    used = _used(run)
    run.tokens = np.zeros(len(run.examples), np.int32)
    run.tokens[used] = pipeline.token_counts(run.model.backbone.preprocess, run.examples.inputs[used])
  return run.tokens


def _used(run):
  return np.concatenate([run.split.train, run.split.validation, run.split.test])


def _lengths(run, indices):
  return token_counts(run)[indices] if run.examples.modality == "text" else None


def inference_batch(run):
  """Returns the global number of examples per forward pass without gradients; the devices share it evenly."""
  if run.forward_batch:
    return run.forward_batch
  batch_size = max(run.config.examples_per_step, model_lib.inference_batch(run.model.backbone))
  devices = run.strategy.num_replicas_in_sync
  return max(1, batch_size // devices) * devices


def training_parts(run, phase):
  """Returns the `pipeline.Part`s of the endless stream (what the network reads, targets) of the training split."""
  train, labels = run.split.train, run.labels[run.split.train]
  batches, classes = None, phase.batch_classes
  if phase.objective == recipes.CONTRAST:
    batches = contrast.batches(labels, classes, phase.batch_size // classes, phase.steps, run.config.seed)
  return pipeline.training_parts(
    run.examples.inputs[train],
    run.model.task.dense(labels) if phase.mixes else labels,
    run.model.backbone.preprocess,
    run.examples.modality,
    phase.batch_size,
    run.config.seed,
    augment=run.augment if phase.augment != "none" else None,
    mix=augmentation.make_mix(phase, run.config.seed),
    classes=drawn_classes(run, phase),
    batches=batches,
    lengths=_lengths(run, train),
  )


def drawn_classes(run, phase):
  """Returns the classes, int [n], of the training split that a phase draws equally often, or None."""
  return run.labels[run.split.train] if phase.imbalance == "balanced" else None


def frozen_features(run):
  """Returns the `FeatureRows` of the frozen backbone, of every example of a split; computed once."""
  if run.features is None:
    used = _used(run)
    with run.clock("features"):
      run.features = _word_features(run, used) if run.model.task.by_word else _features(run, used)
  return run.features


def fresh_features(run):
  """Returns the `FeatureRows` that the backbone gives now, of the training and validation splits alone."""
  used = np.concatenate([run.split.train, run.split.validation])
  features = np.zeros((len(run.examples), run.model.backbone.feature_size), np.float32)
  features[used] = predict(run, run.model.features, used)
  return FeatureRows(features)


def _features(run, used):
  """Returns the `FeatureRows` of examples with one row each, those at `used` filled."""
  rows = np.zeros((len(run.examples), run.model.backbone.feature_size), np.float32)
  rows[used] = feature_cache.features(
    _feature_store(run),
    run.examples.hashes[used],
    lambda part: predict(run, run.model.features, used[part], verbose=int(callbacks.verbosity() == 1)),
  )
  return FeatureRows(rows)


def _word_features(run, used):
  """Returns the `FeatureRows` of examples with a row for each word that is read, those at `used` filled."""
  preprocess, width = run.model.backbone.preprocess, run.model.backbone.feature_size
  counts, starts = np.zeros(len(run.examples), np.int64), np.zeros(len(run.examples), np.int64)
  counts[used] = pipeline.of_texts(preprocess.count_words, run.examples.inputs[used])[:, 1]

  def compute(part):
    outputs = predict(run, run.model.features, used[part])
    return [row[:count] for row, count in zip(outputs, counts[used[part]])]

  chunk = max(32, WORD_FEATURE_BYTES // (4 * preprocess.max_length * width))
  starts[used], rows = feature_cache.several(_feature_store(run), run.examples.hashes[used], compute, chunk)
  return FeatureRows(rows, starts, counts, preprocess.max_length)


def head_logits(run, indices, features=None):
  """Returns the head's logits on `features`, or the frozen ones, float32 [len, outputs]."""
  features = frozen_features(run) if features is None else features
  return features.by_example(heads.logits(run.model.head, features[indices]), indices)


def _feature_store(run):
  """Returns the `FeatureCache` of this backbone, preprocessing and pooling, or None where it is off."""
  root, backbone = cache_directory(run), run.model.backbone
  if root is None:
    return None
  key = feature_cache.key(
    weights=model_lib.fingerprint(backbone.stages),
    kind=backbone.spec.kind,
    pooling=backbone.spec.pooling if run.config.pooling == "auto" else run.config.pooling,
    preprocessing=preprocessing_identity(run),
  )
  return feature_cache.FeatureCache(root / key, backbone.feature_size)


def cache_directory(run):
  """Returns the directory of the feature caches, or None where they are off."""
  choice = run.config.feature_cache
  if choice == "off":
    return None
  return cache_root(run.config.cache_dir) / "features" if choice == "auto" else pathlib.Path(choice)


def preprocessing_identity(run):
  """Returns what tells two preprocessings apart, ready for JSON."""
  preprocess = run.model.backbone.preprocess
  return [preprocess.identity, getattr(preprocess, "max_length", 0)]
