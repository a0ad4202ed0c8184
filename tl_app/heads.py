"""Heads: features to logits."""

import keras
import numpy as np


def linear(feature_size, num_classes):
  """Returns a `keras.Model` named "head": float32 [batch, feature_size] -> logits, float32 [batch, num_classes].

  Features are standardised by `standardize`, then one dense layer whose weights start at zero, so that training starts
  from equal probabilities (Kolesnikov et al. 2020, BiT).
  """
  features = keras.Input((feature_size,), name="pooled")
  # BatchNormalization that never trains: a per-feature shift and scale which is saved with the weights.
  x = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, trainable=False, name="standardize")(
      features
  )
  logits = keras.layers.Dense(num_classes, kernel_initializer="zeros", dtype="float32", name="logits")(x)
  return keras.Model(features, logits, name="head")


def standardize(head, features):
  """Sets the head's shift and scale to the mean and deviation of `features`, float [n, feature_size]."""
  layer = head.get_layer("standardize")
  features = np.asarray(features, np.float64)
  variance = features.var(axis=0)
  # A feature that hardly varies in training must not be blown up where it does: its scale is bounded by the others'.
  floor = 1e-3 * variance.mean() + 1e-12
  layer.moving_mean.assign(features.mean(axis=0).astype(np.float32))
  layer.moving_variance.assign(np.maximum(variance, floor).astype(np.float32))
