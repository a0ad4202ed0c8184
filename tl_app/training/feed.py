"""`Feed`: the network of a phase, the stream of its batches, and its validation logits."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tl_app.data import pipeline
from tl_app.features import trunk
from tl_app.features.frozen import Features
from tl_app.features.rows import FeatureRows
from tl_app.recipes.phase import Phase
from tl_app.training import objectives, phase_augmentation


@dataclasses.dataclass(frozen=True)
class Feed:
  """The network and the data of a phase.

  Attributes:
    network: the `keras.Model` to fit.
    steps: the steps of the endless stream (inputs of the network, targets), see `pipeline.training_steps`.
    validation_logits: function that returns the logits of the validation split, float32 [validation, ..]; None if the
      objective trains no logits.
    reads_trunk: whether the outputs of the frozen trunk are read from disk.
  """

  network: keras.Model
  steps: list
  validation_logits: Callable[[], np.ndarray] | None
  reads_trunk: bool = False

  def dataset(self, skipped: int = 0) -> tf.data.Dataset:
    """Returns the endless dataset of batches without the first ones. The next are prepared while a step runs."""
    return pipeline.whole(self.steps, skipped)


def whole_network(phase: Phase, features: Features, seed: int) -> Feed:
  """Returns the `Feed` that runs the whole backbone in every step.

  Args:
    phase: a phase that trains the backbone.
    features: the `Features` of the run.
    seed: seed of the order of the examples.
  """
  objective, validation = objectives.of(phase), features.data.validation
  return Feed(
    objective.network(features.model, phase),
    training_steps(phase, features, seed),
    (lambda: features.logits(validation)) if objective.fits_head else None,
  )


def from_trunk(phase: Phase, features: Features, seed: int, planned: Phase | None = None) -> Feed | None:
  """Returns the `Feed` that reads the outputs of the frozen trunk from disk, or None if every step computes them.

  Args:
    phase: a phase that trains the backbone.
    features: the `Features` of the run.
    seed: seed of the order of the examples.
    planned: the phase whose number of epochs decides whether these outputs are worth storing; None for `phase`.
  """
  below = trunk.load(features, planned or phase) if objectives.of(phase).fits_head else None
  if below is None:
    return None
  data = features.data
  rows = data.train_rows.ravel()
  batches = index_batches(phase, features, seed)
  steps = [
    pipeline.Step("order", lambda _: batches),
    pipeline.Step("read", lambda indices: below.batches(indices, rows, data.targets[rows])),
  ]
  return Feed(below.network, steps, lambda: below.logits(data.validation), reads_trunk=True)


def head_alone(phase: Phase, features: Features, recomputed: FeatureRows | None, seed: int) -> Feed:
  """Returns the `Feed` of the head on features.

  Args:
    phase: a phase that trains the head alone.
    features: the `Features` of the run.
    recomputed: features of the current backbone, or None for the frozen ones.
    seed: seed of the order of the examples.
  """
  data = features.data
  feature_rows, rows = training_features(features, recomputed)
  batch_size = feature_rows.rows_of(phase.inputs.batch_size, rows)
  classes = objectives.of(phase).sampled_classes(phase, data.targets[rows])
  targets = feature_rows.targets(data.targets, rows)
  steps = pipeline.feature_steps(feature_rows[rows], targets, batch_size, seed, classes)
  return Feed(features.model.head, steps, lambda: features.head_logits(data.validation, feature_rows))


def training_features(features: Features, recomputed: FeatureRows | None) -> tuple[FeatureRows, np.ndarray]:
  """Returns the features to fit a head on: those in `recomputed`, or the frozen ones with all augmented copies.

  Args:
    features: the `Features` of the run.
    recomputed: features of the current backbone, or None for the frozen ones.

  Returns:
    (the `FeatureRows`, int [n]: the training examples in them).
  """
  data = features.data
  return (features.frozen(), data.train_rows.ravel()) if recomputed is None else (recomputed, data.train)


def training_steps(phase: Phase, features: Features, seed: int) -> list:
  """Returns the steps of the endless stream (inputs of the backbone, targets) of the training split.

  Args:
    phase: a phase that trains the backbone.
    features: the `Features` of the run.
    seed: seed of the order of the examples.
  """
  data, model = features.data, features.model
  rows = data.train_rows.ravel()
  targets, inputs = data.targets[rows], phase.inputs
  return pipeline.training_steps(
    data.inputs[rows],
    model.task.codec.as_probabilities(targets) if inputs.mixes else targets,
    model.backbone.preprocess,
    index_batches(phase, features, seed),
    augment=data.augment if inputs.augment != "none" and not inputs.augment_copies else None,
    mix=phase_augmentation.make_mix(phase, seed),
  )


def index_batches(phase: Phase, features: Features, seed: int) -> tf.data.Dataset:
  """Returns the endless dataset of int32 [batch] positions in the flattened `TrainingData.train_rows`.

  Args:
    phase: a phase that trains the backbone.
    features: the `Features` of the run.
    seed: seed of the order of the examples.
  """
  data, replicas = features.data, features.devices.replicas
  preprocess = features.model.backbone.preprocess
  batches = objectives.of(phase).index_batches(phase, data, preprocess, replicas, seed)
  return pipeline.draw_copies(batches, len(data.train), len(data.train_rows), seed)
