"""`Session`: what the steps of one run share, and what each of them asks the network."""

import contextlib
import dataclasses
import logging
import pathlib
import time

import numpy as np
import tensorflow as tf

from tl_app import augmentation
from tl_app import config as config_lib
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets, cache_root
from tl_app.data import modalities, pipeline
from tl_app.data.examples import Examples
from tl_app.data.splitting import splits
from tl_app.errors import RunFailed, UserError
from tl_app.features import disk_cache, inference_engine
from tl_app.features.rows import FeatureRows
from tl_app.model import heads, inference
from tl_app.model import model as model_lib
from tl_app.model.variables import fingerprint
from tl_app.preprocessing import text
from tl_app.recipes import recipes
from tl_app.training import callbacks, contrastive

log = logging.getLogger(__name__)

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
    examples: the `Examples`.
    labels: [n, ..], their targets, see `Task.targets`; then those of `copies`.
    split: the `Splits`.
    model: the `Model`; its `task` tells what the targets and the logits mean.
    why: why it is that task.
    augment: what --augment does to the examples of a training stream, see `Modality.augmentation`; or None.
    copies: (inputs, hashes) of --augment_copies, see `data.copies.make`; or None.
    inputs, hashes: `Inputs` and object array [n + copies]: those of `examples`, then of `copies`.
    places: int [1 + copies of each, training examples], where a training example and each of its copies are in them.
    features: `FeatureRows` of the frozen backbone, once they were needed.
    tokens: what `token_counts` gives, once it was needed.
    seconds: {"features", "train", "evaluate", "export"}.
    deadline: of --max_minutes, as `time.monotonic`, or None.
    cut: {name of a phase that --max_minutes cut: the `Phase` that was left of it, or None}.
    forward_batch: examples per forward pass without gradients that --batch_size=auto found to fit, or None.
    profiled: whether --profile_input has measured.
    counted: seconds of the running `clock` that others within it have counted.
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
  copies: tuple | None = None
  features: FeatureRows | None = None
  tokens: np.ndarray | None = None
  deadline: float | None = None
  cut: dict = dataclasses.field(default_factory=dict)
  forward_batch: int | None = None
  profiled: bool = False
  counted: float = 0.0
  seconds: dict = dataclasses.field(
    default_factory=lambda: {"features": 0.0, "train": 0.0, "evaluate": 0.0, "export": 0.0}
  )

  def __post_init__(self):
    train, (inputs, hashes) = self.split.train, self.copies or (self.examples.inputs[:0], self.examples.hashes[:0])
    self.inputs = self.examples.inputs.joined(inputs)
    self.hashes = np.concatenate([self.examples.hashes, hashes])
    own = len(self.examples) + np.arange(len(inputs)).reshape(-1, len(train))
    self.places = np.concatenate([train[None], own])
    self.labels = np.concatenate([self.labels, *(self.labels[train] for _ in own)])

  @contextlib.contextmanager
  def clock(self, name):
    """Adds the block's seconds to `seconds[name]`, but for those that clocks within it have counted."""
    start, outer, self.counted = time.monotonic(), self.counted, 0.0
    try:
      yield
    finally:
      passed = time.monotonic() - start
      self.seconds[name] += passed - self.counted
      self.counted = outer + passed


def predict(run, network, indices, verbose=0):
  """Returns `network`'s output for the examples at `indices`, float32 [len, ..]."""
  inputs, lengths = run.inputs[indices], _lengths(run, indices)
  return inference.predict(network, run.model.backbone, inputs, inference_batch(run), verbose, lengths)


def frozen(run, network, verbose=0):
  """Returns the context of `inference_engine.computing` for a `network` that is frozen, on examples of the run."""
  return inference_engine.computing(
    network,
    lambda chosen, indices: predict(run, chosen, indices, verbose),
    run.config.frozen_engine,
    run.examples.modality,
    run.strategy.num_replicas_in_sync,
  )


def token_counts(run):
  """Returns int32 [len(run.inputs)]: the tokens of each text, special ones included, nothing cut; counted once."""
  if run.tokens is None:
    used = _used(run)
    run.tokens = np.zeros(len(run.inputs), np.int32)
    run.tokens[used] = pipeline.token_counts(run.model.backbone.preprocess, run.inputs[used])
  return run.tokens


def _used(run):
  return np.concatenate([*run.places, run.split.validation, run.split.test])


def _lengths(run, indices):
  return token_counts(run)[indices] if modalities.of(run.examples.modality).varies_in_length else None


def inference_batch(run):
  """Returns the global number of examples per forward pass without gradients; the devices share it evenly."""
  if run.forward_batch:
    return run.forward_batch
  batch_size = max(run.config.examples_per_step, inference.inference_batch(run.model.backbone))
  devices = run.strategy.num_replicas_in_sync
  return max(1, batch_size // devices) * devices


def training_parts(run, phase):
  """Returns the steps of the endless stream (what the network reads, targets) of the training split."""
  places = run.places.ravel()
  labels = run.labels[places]
  return pipeline.training_steps(
    run.inputs[places],
    run.model.task.codec.as_probabilities(labels) if phase.mixes else labels,
    run.model.backbone.preprocess,
    index_batches(run, phase),
    augment=run.augment if phase.augment != "none" and not phase.copies else None,
    mix=augmentation.make_mix(phase, run.config.seed),
  )


def index_batches(run, phase):
  """Returns the endless dataset of int32 [batch] positions in the flat `run.places` that a phase trains on."""
  train, seed, classes = run.split.train, run.config.seed, phase.batch_classes
  if phase.objective == recipes.CONTRAST:
    each = phase.batch_size // classes
    batches = contrastive.batches(run.labels[train], classes, each, phase.steps, seed)
  elif phase.batch_tokens:
    batches = _token_batches(run, phase.batch_tokens, drawn_classes(run, phase, train))
  else:
    drawn = drawn_classes(run, phase, train)
    batches = pipeline.index_batches(len(train), phase.batch_size, seed, _lengths(run, train), drawn)
  return pipeline.draw_copies(batches, len(train), len(run.places), seed)


def batch_examples(run):
  """Returns how many examples a training batch of --batch_tokens has on average.

  Raises:
    UserError: --batch_tokens does not hold one of the longest texts a device.
  """
  tokens, train = run.config.batch_tokens, run.split.train
  devices, longest = run.strategy.num_replicas_in_sync, _padded_lengths(run).max()
  if tokens < devices * longest:
    raise UserError(
      f"--batch_tokens={tokens} does not hold a text of {longest} tokens a device: give {devices * longest} or more, "
      "or lower --max_length"
    )
  return pipeline.mean_batch(_token_batches(run, tokens, drawn_classes(run, run.config, train)), len(train))


def _token_batches(run, tokens, drawn):
  devices = run.strategy.num_replicas_in_sync
  return pipeline.token_batches(_padded_lengths(run), tokens, run.config.seed, devices, drawn)


def _padded_lengths(run):
  """Returns int [training examples]: positions that each takes, or the longest of its copies, in a batch like it."""
  counts = token_counts(run)[run.places].max(axis=0)
  return text.rounded(counts, run.model.backbone.preprocess.max_length or counts.max())


def drawn_classes(run, phase, indices):
  """Returns the classes, int [n], of the examples at `indices` where a `Phase`, or `Config`, draws each equally often,
  or None."""
  return run.labels[indices] if phase.imbalance == "balanced" else None


def frozen_features(run):
  """Returns the `FeatureRows` of the frozen backbone, of every example of a split; computed once."""
  if run.features is None:
    used = _used(run)
    with run.clock("features"):
      run.features = _word_features(run, used) if run.model.task.per_token else _features(run, used)
    _need_finite(run, used)
  return run.features


def _need_finite(run, used):
  """Raises `RunFailed` that names the first example whose features are NaN or infinite."""
  if not np.isfinite(run.features.rows.sum(dtype=np.float64)):
    # What a damaged row held before it was computed again no example uses.
    bad = next((index for index in used if not np.isfinite(run.features[np.array([index])]).all()), None)
    if bad is None:
      return
    id = run.examples.ids[bad] if bad < len(run.examples) else "a copy of --augment_copies"
    raise RunFailed(f"the features of {id} are not finite: remove it, or choose another backbone")


def fresh_features(run):
  """Returns the `FeatureRows` that the backbone gives now, of the training and validation splits alone."""
  used = np.concatenate([run.split.train, run.split.validation])
  return _one_each(run, used, predict(run, run.model.features, used))


def _features(run, used):
  """Returns the `FeatureRows` of examples with one row each, those at `used` filled."""
  store, verbose = _roomy_store(run, np.ones(len(used), np.int64), used), int(callbacks.verbosity() == 1)
  with frozen(run, run.model.features, verbose) as compute:
    found = disk_cache.features(store, run.hashes[used], lambda part: compute(used[part]))
  return _one_each(run, used, found)


def _one_each(run, used, found):
  rows = np.zeros((len(run.inputs), run.model.backbone.feature_size), np.float32)
  rows[used] = found
  return FeatureRows(rows)


def _word_features(run, used):
  """Returns the `FeatureRows` of examples with a row for each word that is read, those at `used` filled."""
  preprocess, width = run.model.backbone.preprocess, run.model.backbone.feature_size
  counts, starts = np.zeros(len(run.examples), np.int64), np.zeros(len(run.examples), np.int64)
  counts[used] = pipeline.of_texts(preprocess.count_words, run.examples.inputs[used])[:, 1]

  def several(part):
    return [row[:count] for row, count in zip(compute(used[part]), counts[used[part]])]

  chunk = max(32, WORD_FEATURE_BYTES // (4 * preprocess.max_length * width))
  store = _roomy_store(run, counts[used], used)
  with frozen(run, run.model.features) as compute:
    starts[used], rows = disk_cache.several(store, run.examples.hashes[used], several, chunk)
  return FeatureRows(rows, starts, counts, preprocess.max_length)


def head_logits(run, indices, features=None):
  """Returns the head's logits on `features`, or the frozen ones, float32 [len, outputs]."""
  features = frozen_features(run) if features is None else features
  return features.by_example(heads.logits(run.model.head, features[indices]), indices)


def missing_features(run):
  """Returns how many of the examples in use, copies included, have no stored feature of the frozen backbone."""
  store, used = _feature_store(run), _used(run)
  if store is None:
    return len(used)
  with store.locked():
    return int(store.lacks(np.unique(run.hashes[used])).sum())


def _feature_store(run):
  """Returns the `FeatureCache` of this backbone, preprocessing and pooling, or None where it is off."""
  root, backbone = cache_directory(run), run.model.backbone
  if root is None:
    return None
  key = disk_cache.key(
    weights=fingerprint(backbone.stages),
    **backbone.cache_facts(),
    pooling=backbone.spec.pooling,
    preprocessing=preprocessing_identity(run),
  )
  return disk_cache.FeatureCache(root / key, backbone.feature_size)


def _roomy_store(run, counts, used):
  """Returns the `FeatureCache` with place for `counts` rows, int [n], of each example at `used`, or None."""
  store = _feature_store(run)
  if store is None:
    return None
  missing, total, writable = disk_cache.needs(store, run.hashes[used], 4 * store.width * counts)
  if not writable or disk_cache.make_room(store.directory, missing, total, run.config.feature_cache_gb * 1e9):
    return store
  log.info(
    "the %.2f GB of frozen features are not kept, by --feature_cache_gb=%g or for want of disk: they are computed in "
    "every run",
    *(total / 1e9, run.config.feature_cache_gb),
  )
  return None


def cache_directory(run):
  """Returns the directory of the feature caches, or None where they are off."""
  choice = run.config.feature_cache
  if choice == "off":
    return None
  return cache_root(run.config.cache_dir) / "features" if choice == "auto" else pathlib.Path(choice).expanduser()


def preprocessing_identity(run):
  """Returns what tells two preprocessings apart, ready for JSON."""
  preprocess = run.model.backbone.preprocess
  return [preprocess.identity, preprocess.max_length]
