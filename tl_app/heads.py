"""Heads: features to logits."""

import keras
import numpy as np


def linear(feature_size, num_classes):
  """Returns a `keras.Model` named "head": float32 [batch, feature_size] -> logits, float32 [batch, num_classes].

  Features are standardised by `standardize`, then one dense layer whose weights start at zero, so that training starts
  from equal probabilities (Kolesnikov et al. 2020, BiT).
  """
  features = keras.Input((feature_size,), name="pooled")
  # BatchNormalization that never trains: a shift and a scale which are saved with the weights.
  x = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, trainable=False, name="standardize")(
      features
  )
  logits = keras.layers.Dense(num_classes, kernel_initializer="zeros", dtype="float32", name="logits")(x)
  return keras.Model(features, logits, name="head")


def standardize(head, features):
  """Centres the head on `features`, float [n, feature_size], and divides by their one overall deviation.

  One scale for all: a deviation for each feature would blow up the ones that hardly vary. Over three split seeds the
  probe lost 0.011 on digits and 0.013 on 750 flower photographs (EfficientNet-Lite0) that way, and won nothing on
  movie_reviews and banking77 (MiniLM).
  """
  layer = head.get_layer("standardize")
  features = np.asarray(features, np.float64)
  layer.moving_mean.assign(features.mean(axis=0).astype(np.float32))
  variance = max(features.var(axis=0).mean(), np.finfo(np.float32).tiny)
  layer.moving_variance.assign(np.full(features.shape[1], variance, np.float32))
