"""Heads: features to logits, by one dense layer or several."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import threadpoolctl

from tl_app.backbones.float32_layers import L2_NORMALIZED
from tl_app.config.groups import HeadConfig
from tl_app.tasks import solvers
from tl_app.tasks.task import Task

# Smallest scale, as a share of the size of the features. Features that vary less (a random network's) would carry the
# rounding of float32, which differs among batch shapes, into the outputs: 1e-7 of bert_tiny's features became 1.4e-4 of
# its probabilities.
LEAST_DEVIATION = 0.02
MOMENT_ROWS = 4096
# Below this number of rows x features x outputs a solver uses one thread: on 616 x 384 x 77, threads that wait for each
# other took 25 times the CPU time.
THREADED_WORK = 1e9
# Strengths in a row that are not better, after which no other is tried.
WORSE = 2
# Name of the last layer.
LOGITS = "logits"
LINEAR = HeadConfig()


def build(feature_size: int, num_outputs: int, config: HeadConfig = LINEAR, l2_normalized: bool = False) -> keras.Model:
  """Returns a head with fresh weights.

  The weights of its last layer start at zero, so that training starts from equal probabilities (Kolesnikov et al. 2020,
  BiT).

  Args:
    feature_size: width of the features.
    num_outputs: width of the logits.
    config: hidden layers, their activation, and dropout.
    l2_normalized: whether the features are scaled to L2 norm 1 first.

  Returns:
    `keras.Model` named "head": float32 [batch, feature_size] -> logits, float32 [batch, num_outputs]. `standardize`
    sets the shift and scale of the features.
  """
  features = keras.Input((feature_size,), name="features")
  x = keras.layers.UnitNormalization(name=L2_NORMALIZED)(features) if l2_normalized else features
  # BatchNormalization that never trains: a shift and a scale that are saved with the weights.
  x = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, trainable=False, name="standardize")(x)
  widths = [int(width) for width in config.head_hidden_units.split(",") if width]
  for number, width in enumerate(widths, start=1):
    x = keras.layers.Dense(width, config.head_activation, dtype="float32", name=f"hidden_{number}")(x)
    x = _dropped(x, config.head_dropout, f"dropout_{number}")
  if not widths:
    x = _dropped(x, config.head_dropout, "dropout")
  logits = keras.layers.Dense(num_outputs, kernel_initializer="zeros", dtype="float32", name=LOGITS)(x)
  return keras.Model(features, logits, name="head")


def _dropped(x, rate, name):
  return keras.layers.Dropout(rate, name=name)(x) if rate else x


def standardize(head: keras.Model, features: np.ndarray) -> None:
  """Sets the head's shift to the mean of `features`, float [n, feature_size], and its scale to their `deviation`.

  One scale serves all features: a scale for each would amplify those that hardly vary. With one for each, the probe
  lost 0.011 on digits and 0.013 on 750 flower photographs (EfficientNet-Lite0) over three split seeds, and gained
  nothing on movie_reviews and banking77 (MiniLM).
  """
  layer = head.get_layer("standardize")
  features = keras.ops.convert_to_numpy(keras.Model(head.input, layer.input)(features))
  layer.moving_mean.assign(_moments(features)[0].astype(np.float32))
  layer.moving_variance.assign(np.full(features.shape[1], deviation(features) ** 2, np.float32))


def deviation(features: np.ndarray) -> float:
  """Returns one standard deviation, above 0, for all features, float [n, feature_size]."""
  mean, variance = _moments(features)
  found = max(variance.mean() ** 0.5, LEAST_DEVIATION * (variance + np.square(mean)).mean() ** 0.5)
  return max(found, float(np.finfo(np.float32).tiny) ** 0.5)


def _moments(features):
  """Returns (mean, variance), float64 [width] each; only some rows at a time are held as float64."""
  chunks = [features[i : i + MOMENT_ROWS] for i in range(0, len(features), MOMENT_ROWS)]
  mean = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in chunks) / len(features)
  return mean, sum(np.square(chunk - mean).sum(axis=0) for chunk in chunks) / len(features)


def logits(head: keras.Model, features: np.ndarray) -> np.ndarray:
  """Returns the logits, float32 [n, outputs], for features, float32 [n, feature_size]."""
  return keras.ops.convert_to_numpy(head(features, training=False))


def reset(head: keras.Model, bias: np.ndarray) -> None:
  """Sets the dense layers to their initial values; those of the logits are zero, and `bias`, float32 [outputs]."""
  for layer in head.layers:
    if isinstance(layer, keras.layers.Dense):
      # An initializer returns the same values each time.
      layer.kernel.assign(layer.kernel_initializer(layer.kernel.shape))
      layer.bias.assign(bias if layer.name == LOGITS else np.zeros(layer.bias.shape, np.float32))


@dataclasses.dataclass(frozen=True)
class LabelledFeatures:
  """Features of a split and what they should predict.

  Attributes:
    features: float32 [n, feature_size], before standardisation.
    targets: [m, ..], one row for each example.
    by_example: function, logits of the n rows -> logits of the m examples. They are equal unless an example has a row
      for each of its tokens.
  """

  features: np.ndarray
  targets: np.ndarray
  by_example: Callable[[np.ndarray], np.ndarray] = lambda logits: logits


@dataclasses.dataclass(frozen=True)
class Part:
  """Features to fit, and others on which the strength of the regularisation is chosen."""

  train: LabelledFeatures
  held_out: LabelledFeatures


@dataclasses.dataclass(frozen=True)
class Solved:
  """Linear models of scikit-learn, one for each part.

  Attributes:
    tried: [{"strength", "loss", "calibrated_loss", the task's metrics}] of the strengths that were tried, on the
      held-out examples of all parts.
    strength: the chosen one.
    weights: for each part (kernel, bias) of the last layer of the head at the chosen strength.
    logits: for each part the logits of its held-out examples.
    path: {strength that was tried: the logits of the held-out examples of all parts}.
  """

  tried: list[dict[str, float]]
  strength: float
  weights: list[tuple[np.ndarray, np.ndarray]]
  logits: list[np.ndarray]
  path: dict[float, np.ndarray]


def solve(head: keras.Model, solver: str, task: Task, parts: Sequence[Part], strength: float | None = None) -> Solved:
  """Fits scikit-learn's linear model on the standardised features of each part, with the same strength for all.

  The strengths are tried from the most regularised one, until `WORSE` of them in a row are not better.

  Args:
    head: a linear head of `build`, standardised. Its last layer changes.
    solver: as --probe_solver, without "adamw". "svm" takes the strength with the highest score on the held-out
      examples, the others the one with the lowest calibrated loss.
    task: the `Task`.
    parts: what to fit. The features to fit have one target for each row.
    strength: the only strength to judge, with the weights that a search gives it; None tries several.
  """
  scaled = keras.Model(head.input, head.get_layer("standardize").output)
  inputs = [keras.ops.convert_to_numpy(scaled(part.train.features, training=False)) for part in parts]
  work = max(x.size for x in inputs) * len(task.names)
  with threadpoolctl.threadpool_limits(1 if work < THREADED_WORK else None):
    return _best(head, solver, task, parts, inputs, strength)


def _best(head, solver, task, parts, inputs, strength):
  """Returns what `solve` returns for the scaled features of the parts."""
  targets = np.concatenate([part.held_out.targets for part in parts])
  tried, answered = [], {}
  best, best_value, worse = Solved(tried, 0.0, [], [], answered), -np.inf, 0
  for tested, estimators in _fitted(solver, task, parts, inputs, strength):
    weights, held_out = [], []
    for part, estimator in zip(parts, estimators):
      weights.append(tuple(w.astype(np.float32) for w in task.loss.probe_weights(estimator)))
      head.get_layer(LOGITS).set_weights(weights[-1])
      held_out.append(part.held_out.by_example(logits(head, part.held_out.features)))
    answers = answered[tested] = np.concatenate(held_out)
    metrics = task.metrics.monitor_metrics(answers, targets)
    metrics["calibrated_loss"] = task.calibrated_loss(answers, targets)
    tried.append({"strength": tested, **metrics})
    value = metrics[task.metrics.primary_metric] if solver == "svm" else -metrics["calibrated_loss"]
    worse += 1
    if value > best_value:
      best, best_value, worse = Solved(tried, tested, weights, held_out, answered), value, 0
    if worse == WORSE:
      break
  return best


def _fitted(solver, task, parts, inputs, strength):
  """Yields (strength, the estimators of the parts fitted with it), for the only `strength` or for each, if None.

  A known strength is reached from the others as in the search, so that it gives the weights that were judged there.
  """
  paths = [task.loss.probe_estimators(solver) for _ in parts]
  for number, (tested, first) in enumerate(paths[0]):
    is_wanted = strength in (None, tested)
    if not is_wanted and not solvers.can_start(first):
      continue
    estimators = [path[number][1] for path in paths]
    for part, x, path, estimator in zip(parts, inputs, paths, estimators):
      if number:
        solvers.start_from(estimator, path[number - 1][1])
      estimator.fit(x, part.train.targets)
    if is_wanted:
      yield tested, estimators
    if tested == strength:
      return


def set_logits(head: keras.Model, weights: tuple[np.ndarray, np.ndarray]) -> None:
  """Assigns (kernel, bias) to the last layer of a linear head."""
  head.get_layer(LOGITS).set_weights(weights)
