"""One or more amounts an example: squared error on targets that are standardised, answers in their own units."""

import dataclasses
import typing

import numpy as np
import scipy.stats
import sklearn.linear_model

from tl_app.errors import UserError
from tl_app.tasks import cells, solvers, statistics
from tl_app.tasks.task import Task

# Parts of equal size that a split is stratified by, and the fewest examples of one.
BINS, FEWEST = 10, 20
TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Regression(Task):
  """Targets are float32 [n, targets]: less the mean of the training labels, over their standard deviation.

  Attributes:
    mean, deviation: of the training labels, a target each.
  """

  mean: tuple = ()
  deviation: tuple = ()

  name: typing.ClassVar = "regression"
  score: typing.ClassVar = "r2"
  shown: typing.ClassVar = {"r2": "R2", "pearson": "Pearson", "spearman": "Spearman", "rmse": "RMSE", "mae": "MAE"}
  baseline_name: typing.ClassVar = "mean"
  baseline_title: typing.ClassVar = "always answering the mean of the training labels"
  loss_title: typing.ClassVar = "squared error in standard deviations of the training labels"
  test_title: typing.ClassVar = "randomisation test"
  solvers: typing.ClassVar = ("adamw", "ridge")
  smooths: typing.ClassVar = False
  named: typing.ClassVar = False

  @classmethod
  def read(cls, config, labels):
    names = tuple(name.strip() for name in config.label_columns.split(",") if name.strip())
    return cls(names=names or (config.label_column,))

  @property
  def columns(self):
    """Of predictions_test.csv; "error" is the distance, of several targets their mean in standard deviations."""
    if len(self.names) == 1:
      return ("id", "label", "prediction", "error")
    return ("id", *(f"{name} {what}" for name in self.names for what in ("label", "prediction")), "error")

  def classes(self, labels):
    values = self._values(labels)
    amounts = ((values - values.mean(axis=0)) / np.maximum(values.std(axis=0), TINY)).mean(axis=1)
    shown = values[:, 0] if len(self.names) == 1 else amounts
    bins = int(np.clip(len(labels) // FEWEST, 2, BINS))
    edges = np.unique(np.quantile(amounts, np.arange(1, bins) / bins))
    places = np.searchsorted(edges, amounts, side="right")
    names = {}
    for place in np.unique(places):
      part = shown[places == place]
      names[place] = f"{place + 1:02}: {part.min():.4g} to {part.max():.4g}"
    return [(names[place],) for place in places]

  def fit(self, labels):
    values = self._values(labels)
    constant = [name for name, deviation in zip(self.names, values.std(axis=0)) if not deviation > 0]
    if constant:
      raise UserError(f"all training labels of {constant[0]!r} are {values[0, self.names.index(constant[0])]:g}")
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    return dataclasses.replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

  def targets(self, labels):
    return ((self._values(labels) - self.mean) / self.deviation).astype(np.float32)

  def dense(self, targets):
    return targets

  def loss(self, label_smoothing):
    import keras

    return keras.losses.MeanSquaredError()

  def score_of(self, outputs, targets):
    return float(np.mean(self._figures(outputs, targets)["r2"]))

  def mean_loss(self, logits, targets):
    return float(np.mean(np.square(np.float64(logits) - targets)))

  def p_value(self, first, second, targets):
    one, two = (np.square(np.float64(logits) - targets).mean(axis=1, keepdims=True) for logits in (first, second))
    return statistics.randomisation([(one, two, lambda sums: sums[..., 0])])

  def estimators(self, solver):
    return [(alpha, sklearn.linear_model.Ridge(alpha=alpha)) for alpha in solvers.RIDGE_STRENGTHS]

  def weights(self, estimator):
    return np.atleast_2d(estimator.coef_).T, np.atleast_1d(estimator.intercept_)

  def outputs(self, logits):
    return np.float64(logits) * self.deviation + self.mean

  def measure(self, logits, targets, seed=0):
    """Returns the metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, targets], standardised; finite; n is at least 1.
      targets: float [n, targets], standardised.
      seed: seed of the bootstrap.

    Returns:
      A dict: "num_examples"; "loss" (see `loss_title`); "r2", "pearson", "spearman", "rmse" and "mae" (the last two in
      the labels' unit), each the mean over the targets and with "_ci95", the 95 % percentile bootstrap interval over
      examples (of Spearman's over the ranks in the whole split), or None with fewer than ten examples; "per_target"
      {name: {the same figures, without intervals}}. A correlation with a constant is 0, and so is R2 where all labels
      are the same, but for answers that all are right.
    """
    logits = self._usable(logits, targets)
    figures = self._figures(logits, targets)
    metrics = {"num_examples": len(targets), "loss": self.mean_loss(logits, targets)}
    metrics |= {key: float(figures[key].mean()) for key in self.shown}
    columns = self._columns(logits, targets)
    for key in self.shown:
      metrics[f"{key}_ci95"] = (
        statistics.bootstrap(columns, lambda sums, key=key: self._statistics(sums)[key].mean(axis=-1), seed)
        if len(targets) >= 10
        else None
      )
    metrics["per_target"] = {
      name: {key: float(figures[key][index]) for key in self.shown} for index, name in enumerate(self.names)
    }
    return metrics

  def baseline(self, train_targets, targets):
    constant = np.repeat(train_targets.mean(axis=0, keepdims=True), len(targets), axis=0)
    figures = self._figures(constant, targets)
    return {"baseline": {key: float(figures[key].mean()) for key in ("r2", "rmse", "mae")}}

  def rows(self, ids, labels, outputs):
    labels = self._values(labels)
    scale = np.ones(1) if len(self.names) == 1 else np.array(self.deviation)
    errors = (np.abs(outputs - labels) / scale).mean(axis=1)
    for example_id, truth, answer, error in zip(ids, labels, outputs, errors):
      yield example_id, *(f"{value:.9g}" for pair in zip(truth, answer) for value in pair), f"{error:.9g}"

  def evidence(self, rows):
    cells_of = [self.columns[start:-1:2] for start in (1, 2)]
    truth, answer = (np.array([[float(row[name]) for name in names] for row in rows]) for names in cells_of)
    truth, answer = truth - self.mean, answer - self.mean
    return np.concatenate([np.ones_like(truth), truth, truth**2, (answer - truth) ** 2], axis=1)

  def score_from(self, sums):
    n, truth, truth_squared, squared = np.split(sums, 4, axis=-1)
    total = truth_squared - truth**2 / np.maximum(n, 1)
    return self._r2(n, total, squared).mean(axis=-1)

  def serve(self, logits, inputs):
    import tensorflow as tf

    return {"values": logits * tf.constant(self.deviation, tf.float32) + tf.constant(self.mean, tf.float32)}

  def answers(self, served, inputs):
    for row in served["values"]:
      yield {"values": {name: float(value) for name, value in zip(self.names, row)}}

  def compare(self, served, outputs):
    difference = (np.abs(served["values"] - outputs) / self.deviation).max()
    return {
      "num_examples": len(outputs),
      "max_value_difference": float(difference) if np.isfinite(difference) else 1.0,
    }

  def described(self):
    return f"{len(self.names)} target{'s' if len(self.names) > 1 else ''}"

  def _values(self, labels):
    """Returns float64 [n, targets] of the cells."""
    rows = []
    for label in labels:
      values = [cells.number(value) for value in cells.listed(label) or [label]]
      if None in values or len(values) != len(self.names):
        raise UserError(
          f"--task=regression takes {len(self.names)} number(s) an example, but a label is {label!r}: correct it, or "
          "choose another --task"
        )
      rows.append(values)
    return np.array(rows, np.float64)

  def _columns(self, logits, targets):
    """Returns float64 [n, 14 targets]: what `_statistics` takes the sums of."""
    scale = np.array(self.deviation)
    truth, answer = np.float64(targets) * scale, np.float64(logits) * scale
    truth, answer = truth - truth.mean(axis=0), answer - truth.mean(axis=0)
    error = answer - truth
    parts = [np.ones_like(error), np.abs(error), error**2]
    for one, two in ((truth, answer), (_ranks(truth), _ranks(answer))):
      parts += [one, one**2, two, two**2, one * two]
    return np.concatenate(parts, axis=1)

  def _statistics(self, sums):
    """Returns {key of a figure: float [.., targets]} from sums of `_columns`."""
    n, absolute, squared, *moments = np.split(sums, 13, axis=-1)
    total = moments[1] - moments[0] ** 2 / n
    return {
      "r2": self._r2(n, total, squared),
      "pearson": _correlation(n, *moments[:5]),
      "spearman": _correlation(n, *moments[5:]),
      "rmse": np.sqrt(squared / n),
      "mae": absolute / n,
    }

  def _r2(self, n, total, squared):
    # Labels that are all the same leave rounding; scikit-learn's answer to these: 1 where all is right, else 0.
    least = TINY * n * np.square(self.deviation)
    alike = (squared <= least).astype(np.float64)
    return np.where(total > least, 1 - squared / np.where(total > least, total, 1.0), alike)

  def _figures(self, logits, targets):
    return self._statistics(self._columns(logits, targets).sum(axis=0))


def _ranks(values):
  ranks = scipy.stats.rankdata(values, axis=0)
  return ranks / len(ranks) - ranks.mean(axis=0) / len(ranks)


def _correlation(n, one, one_squared, two, two_squared, product):
  # What is left of the variance of a constant is rounding.
  first, second = one_squared - one**2 / n, two_squared - two**2 / n
  varies = (first > TINY * one_squared) & (second > TINY * two_squared)
  return np.where(varies, (product - one * two / n) / np.sqrt(np.where(varies, first * second, 1.0)), 0.0)
