"""Any number of classes an example: a sigmoid each, and a threshold each that the validation split chooses."""

import dataclasses
import typing

import numpy as np
import scipy.special
import sklearn.metrics
import sklearn.multiclass

from tl_app.errors import UserError
from tl_app.tasks import cells, solvers, statistics
from tl_app.tasks.task import Task

# A class with fewer validation examples takes the threshold that is best for all classes together.
FEW = 10
# Nearer to its threshold than float32 rounding, a probability may fall on either side.
TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class MultiLabel(Task):
  """Targets are float32 [n, classes] of 0 and 1.

  Attributes:
    separator: between the names in a cell, and in the answers.
    columns_of_labels: names of the 0/1 columns, where the cells are lists of these; else ().
    thresholds: of the probabilities, a class each.
  """

  separator: str = ","
  columns_of_labels: tuple = ()
  thresholds: tuple = ()

  name: typing.ClassVar = "multi_label"
  score: typing.ClassVar = "macro_f1"
  shown: typing.ClassVar = {"macro_f1": "macro F1", "micro_f1": "micro F1", "subset_accuracy": "subset accuracy"}
  baseline_name: typing.ClassVar = "every class"
  baseline_title: typing.ClassVar = "always answering every class"
  loss_title: typing.ClassVar = "binary cross-entropy in nats, mean over the classes"
  test_title: typing.ClassVar = "randomisation test"
  solvers: typing.ClassVar = ("adamw", "logistic", "svm")
  mixes: typing.ClassVar = True
  imbalances: typing.ClassVar = ("class_weights", "focal")

  @classmethod
  def read(cls, config, labels):
    distinct = set(labels)
    columns = tuple(name.strip() for name in config.label_columns.split(",") if name.strip())
    mark = config.label_separator or cells.separator(distinct) or cells.commonest_separator(distinct)
    return cls(separator=mark, columns_of_labels=columns)

  def classes(self, labels):
    return [tuple(sorted(self._names(label))) for label in labels]

  def fit(self, labels):
    classes = self.classes(labels)
    found = {name for names in classes for name in names}
    missing = [name for name in self.columns_of_labels if name not in found]
    if missing:
      raise UserError(f"train has no positive example of {missing[0]!r} (--label_columns): add some, or leave it out")
    if len(found) < 2:
      raise UserError(f"{len(found)} class in train: --task=multi_label needs two or more")
    names = self.columns_of_labels or tuple(sorted(found))
    marks = (self.separator, *cells.SEPARATORS, "\t")
    mark = next(mark for mark in marks if mark == "\t" or not any(mark in name for name in names))
    return dataclasses.replace(self, names=names, separator=mark)

  def targets(self, labels):
    place = {name: index for index, name in enumerate(self.names)}
    targets = np.zeros((len(labels), len(place)), np.float32)
    for row, names in zip(targets, self.classes(labels)):
      unknown = [name for name in names if name not in place]
      if unknown:
        raise cells.unknown(unknown[0], self.names)
      row[[place[name] for name in names]] = 1
    return targets

  def settle(self, logits, targets):
    chosen = best_thresholds(scipy.special.expit(np.float64(logits)), targets)
    return dataclasses.replace(self, thresholds=tuple(float(value) for value in chosen))

  def dense(self, targets):
    return targets

  def initial_bias(self, targets):
    shares = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
    return scipy.special.logit(shares).astype(np.float32)

  def loss(self, label_smoothing):
    import keras

    return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)

  def weighted_loss(self, label_smoothing, imbalance, targets):
    from tl_app.tasks import losses

    return losses.sigmoid(targets.sum(axis=0).astype(int), len(targets), label_smoothing, imbalance)

  def score_of(self, outputs, targets):
    counts = statistics.class_counts(outputs > best_thresholds(outputs, targets), targets)
    return float(self.score_from(counts.sum(axis=0)))

  def mean_loss(self, logits, targets):
    logits = np.float64(logits)
    return float(np.mean(np.logaddexp(0, logits) - logits * targets))

  def p_value(self, first, second, targets):
    answers = (logits > best_thresholds(logits, targets) for logits in (first, second))
    one, two = (statistics.class_counts(of_one, targets) for of_one in answers)
    return statistics.randomisation([(one, two, self.score_from)])

  def estimators(self, solver):
    return [(c, sklearn.multiclass.OneVsRestClassifier(model)) for c, model in solvers.classifiers(solver)]

  def weights(self, estimator):
    # A class that every example has gets no model, but a constant answer.
    width = next(model.coef_.shape[1] for model in estimator.estimators_ if hasattr(model, "coef_"))
    pairs = [
      (model.coef_[0], model.intercept_[0]) if hasattr(model, "coef_") else (np.zeros(width), 10.0)
      for model in estimator.estimators_
    ]
    return np.stack([kernel for kernel, _ in pairs], axis=1), np.array([bias for _, bias in pairs])

  def outputs(self, logits):
    return scipy.special.expit(np.float64(logits))

  def measure(self, logits, targets, seed=0):
    """Returns the metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, classes], finite; n is at least 1.
      targets: float [n, classes] of 0 and 1.
      seed: seed of the bootstrap.

    Returns:
      A dict: "num_examples"; "loss"; "macro_f1" (mean over the classes), "micro_f1" (over all answers),
      "subset_accuracy" (share of the examples without any wrong class), each with "_ci95", the 95 % percentile
      bootstrap interval over examples, or None with fewer than ten right or wrong answers; "per_class" {name:
      {"precision", "recall", "f1", "support", "average_precision", "threshold"}}. What is 0/0 counts 0.
    """
    logits, targets = self._usable(logits, targets), np.asarray(targets)
    probabilities = self.outputs(logits)
    answers = probabilities > np.array(self.thresholds)
    counts = statistics.class_counts(answers, targets)
    exact = (answers == targets).all(axis=1)
    hits, predicted, support = counts.sum(axis=0).reshape(3, -1)
    metrics = {"num_examples": len(targets), "loss": self.mean_loss(logits, targets)}
    metrics["macro_f1"] = float(statistics.macro_f1(counts.sum(axis=0)))
    metrics["micro_f1"] = float(_micro(counts.sum(axis=0)))
    metrics["subset_accuracy"] = float(exact.mean())
    few = min(hits.sum(), (answers != targets).sum()) < statistics.FEW
    for key, statistic in (("macro_f1", statistics.macro_f1), ("micro_f1", _micro)):
      metrics[f"{key}_ci95"] = None if few else statistics.bootstrap(counts, statistic, seed)
    metrics["subset_accuracy_ci95"] = statistics.accuracy_interval(int(exact.sum()), len(exact), seed)
    ranked = [
      float(sklearn.metrics.average_precision_score(truth, p)) if truth.any() else 0.0
      for truth, p in zip(targets.T, probabilities.T)
    ]
    metrics["per_class"] = {
      name: {
        "precision": float(hit / max(of, 1)),
        "recall": float(hit / max(have, 1)),
        "f1": float(2 * hit / max(of + have, 1)),
        "support": int(have),
        "average_precision": average_precision,
        "threshold": threshold,
      }
      for name, hit, of, have, average_precision, threshold in zip(
        self.names, hits, predicted, support, ranked, self.thresholds
      )
    }
    return metrics

  def baseline(self, train_targets, targets):
    counts = statistics.class_counts(np.ones_like(targets), targets).sum(axis=0)
    return {"baseline": {"macro_f1": float(statistics.macro_f1(counts)), "micro_f1": float(_micro(counts))}}

  def rows(self, ids, labels, outputs):
    for example_id, truth, answer, row in zip(ids, self.targets(labels), outputs > np.array(self.thresholds), outputs):
      # Nine significant digits tell any two float32 apart.
      yield example_id, self._joined(truth), self._joined(answer), f"{row.max():.9g}"

  def evidence(self, rows):
    answers, targets = (np.array([self._chosen(row[name]) for row in rows]) for name in ("prediction", "label"))
    return statistics.class_counts(answers, targets)

  def score_from(self, sums):
    return statistics.macro_f1(sums)

  def serve(self, logits, inputs):
    import tensorflow as tf

    probabilities = tf.sigmoid(logits)
    predicted = probabilities > tf.constant(self.thresholds, tf.float32)
    names = tf.broadcast_to(tf.constant(self.names), tf.shape(probabilities))
    return {
      "label": tf.strings.reduce_join(tf.ragged.boolean_mask(names, predicted), axis=-1, separator=self.separator),
      "score": tf.reduce_max(probabilities, axis=-1),
      "predicted": predicted,
      "probabilities": probabilities,
    }

  def answers(self, served, inputs):
    for predicted, score, row in zip(*(served[name] for name in ("predicted", "score", "probabilities"))):
      yield {
        "labels": [name for name, chosen in zip(self.names, predicted) if chosen],
        "score": float(score),
        "probabilities": {name: float(p) for name, p in zip(self.names, row)},
      }

  def compare(self, served, outputs):
    thresholds = np.array(self.thresholds)
    decided = np.abs(outputs - thresholds) > TIE
    flips = ((served["predicted"] != (outputs > thresholds)) & decided).any(axis=1)
    return statistics.class_proof(served["probabilities"], outputs, flips)

  def _names(self, label):
    values = cells.listed(label)
    if not self.columns_of_labels:
      return set(cells.split(label, self.separator) if values is None else values)
    if values is None or len(values) != len(self.columns_of_labels):
      raise UserError(f"--label_columns names {len(self.columns_of_labels)} columns, but a label is {label!r}")
    for name, value in zip(self.columns_of_labels, values):
      if value.lower() not in cells.FLAGS:
        raise UserError(
          f"--task=multi_label, but the column {name!r} of --label_columns holds {value!r}: 0 or 1 it takes"
        )
    return {name for name, value in zip(self.columns_of_labels, values) if cells.FLAGS[value.lower()]}

  def _joined(self, chosen):
    return self.separator.join(name for name, yes in zip(self.names, chosen) if yes)

  def _chosen(self, joined):
    """Returns what `_joined` made the text of, a list of 0 and 1."""
    names = joined.split(self.separator)
    return [int(name in names) for name in self.names]


def best_thresholds(outputs, targets):
  """Returns the thresholds, float [classes], above which a class is answered for the highest F1.

  Halfway between two outputs. A class with fewer than `FEW` positive examples takes the threshold that is best for all
  classes together (micro F1): of its own few it would learn their accidents.

  Args:
    outputs: float [n, classes]; targets: [n, classes] of 0 and 1.
  """
  common = _best_threshold(outputs.reshape(-1), targets.reshape(-1))
  return np.array(
    [
      _best_threshold(column, truth) if truth.sum() >= FEW else common
      for column, truth in zip(np.asarray(outputs).T, np.asarray(targets).T)
    ]
  )


def _best_threshold(outputs, truth):
  order = np.argsort(-outputs, kind="stable")
  ranked = np.float64(outputs[order])
  f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(order) + 1) + truth.sum())
  # Equal outputs are on the same side.
  f1[:-1][ranked[:-1] == ranked[1:]] = -1
  last = int(f1.argmax())
  below = ranked[last + 1] if last + 1 < len(ranked) else ranked[last] - max(1e-3, abs(ranked[last]) / 2)
  return (ranked[last] + below) / 2


def _micro(sums):
  hits, predicted, support = (part.sum(axis=-1) for part in np.split(sums, 3, axis=-1))
  return 2 * hits / np.maximum(predicted + support, 1)
