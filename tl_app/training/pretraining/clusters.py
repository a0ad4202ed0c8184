"""Clusters as labels (Caron et al. 2018, DeepCluster): the network predicts to which cluster its features belonged."""

import typing

import keras
import numpy as np
import sklearn.cluster
import sklearn.decomposition
import sklearn.pipeline
import sklearn.preprocessing
import tensorflow as tf
from keras import layers

from tl_app.data.augmentation import views
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.model import graphs
from tl_app.recipes.phase import Clusters
from tl_app.training.pretraining.objective import PretrainingObjective
from tl_app.training.pretraining.views import view_settings

# Examples from which the centres are computed, and examples whose features are computed together.
FITTED, BATCH = 20000, 128
# Largest number of principal components, as in Caron et al. 2018; at most half of the features are kept. Whitened to
# this half, 50 clusters of the features of a random cnn_small agree better with the classes of digits: adjusted mutual
# information 0.54 and 0.55 in place of 0.44 and 0.52. There are at most half as many as examples: the last ones of
# few examples hardly vary, and whitened to a deviation of 1 they would decide alone about new examples.
COMPONENTS = 256


class ClustersObjective(PretrainingObjective):
  """Predicts clusters. Each round clusters the features anew, by k-means, and starts with a new head.

  The held-out loss of a round is about the clusters of this round. That of the start is the one of equal probabilities.
  """

  metrics: typing.ClassVar[dict[str, str]] = {"loss": "loss", "accuracy": "accuracy"}

  def settings(self, config):
    return Clusters(config.clusters, config.rounds, config.crop_scale, config.color_jitter, config.view_flip)

  def problem(self, backbone, config):
    return ""

  def head(self, backbone, settings):
    features = keras.Input((backbone.feature_size,), name="features")
    logits = layers.Dense(settings.clusters, kernel_initializer="zeros", name="clusters")(features)
    return keras.Model(features, logits, name="head")

  def network(self, model, phase):
    features = graphs.backbone_outputs(model, phase)["features"]
    return keras.Model(model.backbone.network.input, model.head(features), name="clusters")

  def phases(self, planned):
    (phase,) = planned
    rounds = min(phase.objective.rounds, phase.schedule.epochs)
    return [_round(phase, number, rounds) for number in range(rounds)]

  def prepare(self, model, phase, corpus):
    """Returns the clusters before a round: "train" int32 [train], and "held_out" int32 [held out] by nearest centre."""
    count = phase.objective.clusters
    if len(corpus.train) < count:
      raise UserError(f"--clusters={count}: the training part has {number_of(len(corpus.train), 'example')}: lower it")
    infer = tf.function(lambda raw: _pooled(model.backbone, raw), reduce_retracing=True)
    sample = np.linspace(0, len(corpus.train) - 1, min(FITTED, len(corpus.train))).astype(np.int64)
    features = np.concatenate(list(_features(infer, corpus.train, sample)))
    kept = min(COMPONENTS, max(1, min(features.shape) // 2))
    means = sklearn.pipeline.make_pipeline(
      sklearn.decomposition.PCA(kept, whiten=True, random_state=0),
      sklearn.preprocessing.Normalizer(),
      sklearn.cluster.KMeans(count, n_init=1, max_iter=100, random_state=0),
    ).fit(features)
    model.head.get_layer("clusters").set_weights([np.zeros((features.shape[1], count)), np.zeros(count)])
    return {name: _nearest(means, infer, getattr(corpus, name)) for name in ("train", "held_out")}

  def example(self, model, phase, seed, prepared=None, held_out=False):
    preprocess, settings = model.backbone.preprocess, view_settings(phase.objective)
    labels = tf.constant(prepared["held_out" if held_out else "train"])
    changes = model.backbone.modality == "image" and not held_out

    def make(raw, rows, number):
      inputs = preprocess(raw)
      if changes:
        inputs = views.view(inputs, settings, tf.stack([tf.constant(seed, tf.int64), number]))
      return inputs, tf.gather(labels, rows)

    return make

  def loss(self, phase):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

  def measure(self, network, phase):
    @tf.function(reduce_retracing=True)
    def sums(inputs, labels):
      logits = network(inputs, training=False)
      losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
      right = tf.cast(tf.argmax(logits, -1, labels.dtype) == labels, losses.dtype)
      return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(right), tf.cast(tf.size(labels), losses.dtype)])

    def run(batches):
      loss, right, count = sum(sums(inputs, labels).numpy().astype(np.float64) for inputs, labels in batches)
      return {"loss": loss / count, "accuracy": right / count}

    return run

  def description(self, phase):
    return f", {phase.objective.clusters} clusters"


def _round(phase, number, rounds):
  epochs = phase.schedule.epochs
  share = epochs // rounds + (1 if number < epochs % rounds else 0)
  warmup_steps = round(phase.schedule.warmup_steps * share / epochs)
  return phase.replace(name=f"{phase.name}_{number + 1}", epochs=share, warmup_steps=warmup_steps)


def _pooled(backbone, raw):
  return tf.cast(backbone.network(backbone.preprocess(raw), training=False)["features"], tf.float32)


def _features(infer, rows, positions):
  """Yields the features of the rows at some positions, float32 [at most BATCH, width]."""
  for start in range(0, len(positions), BATCH):
    yield infer(tf.constant(list(rows.read(positions[start : start + BATCH])), tf.string)).numpy()


def _nearest(means, infer, rows):
  """Returns the number of the nearest centre of each row, int32 [rows]; features are never held together."""
  found = [means.predict(features) for features in _features(infer, rows, np.arange(len(rows)))]
  return np.concatenate(found).astype(np.int32)
