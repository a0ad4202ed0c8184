"""Heads: features to logits."""

import keras
import numpy as np
import sklearn.linear_model
import sklearn.svm

from tl_app import evaluation


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


# Of the features' size. Features that vary less (a random network's) would carry float32 rounding, which differs among
# batch shapes, into the answers: 1e-7 of bert_tiny's features became 1.4e-4 of its probabilities.
LEAST_DEVIATION = 0.02


def standardize(head, features):
  """Centres the head on `features`, float [n, feature_size], and divides by their one overall deviation.

  One scale for all: a deviation for each feature would blow up the ones that hardly vary. Over three split seeds the
  probe lost 0.011 on digits and 0.013 on 750 flower photographs (EfficientNet-Lite0) that way, and won nothing on
  movie_reviews and banking77 (MiniLM).
  """
  layer = head.get_layer("standardize")
  features = np.asarray(features, np.float64)
  layer.moving_mean.assign(features.mean(axis=0).astype(np.float32))
  deviation = max(features.var(axis=0).mean() ** 0.5, LEAST_DEVIATION * np.square(features).mean() ** 0.5)
  variance = max(deviation**2, np.finfo(np.float32).tiny)
  layer.moving_variance.assign(np.full(features.shape[1], variance, np.float32))


# Inverse strengths of the regularisation that are tried on the validation split; scikit-learn's C.
STRENGTHS = (0.03, 0.3, 3.0)
MAX_ITERATIONS = 1000


def solve(head, solver, features, labels, validation_features, validation_labels):
  """Fits scikit-learn's classifier on the standardised features and carries it into the head exactly.

  Args:
    head: the `keras.Model` of `linear`, standardised.
    solver: "logistic" (lowest validation cross-entropy) or "svm" (one against the rest; highest validation accuracy).
    features: float32 [n, feature_size], before standardisation; labels: int [n].
    validation_features, validation_labels: likewise, to choose the strength.

  Returns:
    [{"C", "loss", "accuracy"}] of the strengths that were tried, on the validation split.
  """
  scaled = keras.Model(head.input, head.get_layer("standardize").output)
  x = keras.ops.convert_to_numpy(scaled(features, training=False))
  tried, best = [], None
  for strength in STRENGTHS:
    kernel, bias = _weights(_classifier(solver, strength).fit(x, labels))
    head.get_layer("logits").set_weights([kernel, bias])
    logits = keras.ops.convert_to_numpy(head(validation_features, training=False))
    loss = evaluation.cross_entropy(logits, validation_labels)
    accuracy = float(np.mean(logits.argmax(axis=1) == validation_labels))
    tried.append({"C": strength, "loss": loss, "accuracy": accuracy})
    score = -loss if solver == "logistic" else accuracy
    if best is None or score > best[0]:
      best = score, kernel, bias
  head.get_layer("logits").set_weights(best[1:])
  return tried


def _classifier(solver, strength):
  if solver == "logistic":
    return sklearn.linear_model.LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
  return sklearn.svm.LinearSVC(C=strength * 0.01, dual="auto", max_iter=MAX_ITERATIONS, random_state=0)


def _weights(classifier):
  kernel, bias = classifier.coef_.T, classifier.intercept_
  if kernel.shape[1] == 1:
    # One margin m for two classes; softmax of (-m/2, m/2) is its sigmoid.
    kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
  return kernel.astype(np.float32), bias.astype(np.float32)
