"""One class an example: softmax and cross-entropy."""

import dataclasses
import typing

import numpy as np
import sklearn.metrics

from tl_app.errors import UserError
from tl_app.tasks import cells, solvers, statistics
from tl_app.tasks.answers import Answers
from tl_app.tasks.label_codec import LabelCodec
from tl_app.tasks.loss_spec import LossSpec
from tl_app.tasks.metrics import CountMetrics, Metrics, usable_logits
from tl_app.tasks.task import Task

# Two classes nearer than float32 rounding are a tie: which of them comes first does not matter.
TIE = 1e-6
# With more classes the confusion matrix is written as its cells above 0: at most one for each example.
MAX_MATRIX_CLASSES = 200


@dataclasses.dataclass(frozen=True)
class SingleLabelCodec(LabelCodec):
  """Targets are int32 [n], the positions of the classes in `names`, which are sorted as text ("10" before "2")."""

  def classes(self, labels):
    several = next((label for label in labels if cells.listed(label) is not None), None)
    if several is not None:
      raise UserError(f"--task=single_label, but a label is the list {several}: use --task=multi_label")
    return [(label,) for label in labels]

  def fit(self, labels):
    names = sorted(set(labels))
    if len(names) < 2:
      raise UserError(f"one class in train, {names[0]!r}: two or more are needed")
    return dataclasses.replace(self, names=tuple(names))

  def targets(self, labels):
    position = {name: index for index, name in enumerate(self.names)}
    unknown = sorted(set(labels) - set(position))
    if unknown:
      raise cells.unknown(unknown[0], self.names)
    return np.array([position[label] for label in labels], np.int32)

  def as_probabilities(self, targets):
    probabilities = np.zeros((len(targets), len(self.names)), np.float32)
    probabilities[np.arange(len(targets)), targets] = 1
    return probabilities


@dataclasses.dataclass(frozen=True)
class SoftmaxLoss(LossSpec):
  """Cross-entropy of the softmax over the classes."""

  title: typing.ClassVar = "cross-entropy in nats"

  def loss(self, label_smoothing):
    import keras

    if not label_smoothing:
      return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Keras smooths one-hot targets only.
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    return lambda labels, logits: smoothed(keras.ops.one_hot(labels, len(self.codec.names)), logits)

  def weighted_loss(self, label_smoothing, imbalance, targets):
    from tl_app.tasks import losses

    return losses.softmax(np.bincount(targets, minlength=len(self.codec.names)), label_smoothing, imbalance)

  def keras_metrics(self):
    import keras

    from tl_app.tasks import losses

    return [keras.metrics.MeanMetricWrapper(losses.hits, name="accuracy")]

  def mean_loss(self, logits, targets):
    return statistics.cross_entropy(logits, targets)

  def probe_estimators(self, solver):
    return solvers.classifiers(solver)

  def probe_weights(self, estimator):
    return solvers.softmax_weights(estimator)


@dataclasses.dataclass(frozen=True)
class ClassBalancedLoss(SoftmaxLoss):
  """The cross-entropy by which an epoch of the probe is chosen is the mean over the classes, not over the examples."""

  title: typing.ClassVar = "cross-entropy in nats, mean over the classes in validation"

  def mean_loss(self, logits, targets):
    of_examples = -statistics.log_softmax(logits)[np.arange(len(targets)), targets]
    return float(np.mean([of_examples[targets == name].mean() for name in np.unique(targets)]))


@dataclasses.dataclass(frozen=True)
class AccuracyMetrics(Metrics):
  """Accuracy decides."""

  primary_metric: typing.ClassVar = "accuracy"
  metric_titles: typing.ClassVar = {"accuracy": "accuracy", "macro_f1": "macro F1", "matthews": "Matthews"}
  baseline_name: typing.ClassVar = "majority_class"
  baseline_title: typing.ClassVar = "the majority class"
  test_title: typing.ClassVar = "McNemar's exact test"
  counts_right_answers: typing.ClassVar = True

  def score(self, outputs, targets):
    return float(np.mean(outputs.argmax(axis=1) == targets))

  def p_value(self, first, second, targets):
    return statistics.mcnemar(first.argmax(axis=1) == targets, second.argmax(axis=1) == targets)

  def compute_metrics(self, logits, targets, seed=0):
    """Returns the metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, classes], finite; n is at least 1.
      targets: int [n], the true class of each row, in [0, classes).
      seed: seed of the bootstrap.

    Returns:
      A dict: "num_examples"; "loss" (mean cross-entropy in nats); "accuracy"; "accuracy_ci95" ([low, high], see
      `statistics.accuracy_interval`); "balanced_accuracy" (mean recall over the classes with examples); "macro_f1"
      (mean F1 over the classes that have examples or answers, as of scikit-learn); "macro_f1_ci95" ([low, high] or
      None, see `statistics.macro_f1_interval`); "matthews" (the correlation of Matthews, -1 to 1; Gorodkin 2004 for
      several classes); "per_class" {name: {"precision", "recall", "f1", "support"}}; "confusion_matrix" (rows: true
      class, columns: predicted class), or with more than `MAX_MATRIX_CLASSES` classes "confusion_cells" ([position of
      the true class, of the predicted class, count] of each cell above 0). A precision, recall or F1 that is 0/0 counts
      0.
    """
    logits, labels = usable_logits(logits, targets), np.asarray(targets)
    predictions = logits.argmax(axis=1)
    names = self.codec.names
    classes = np.arange(len(names))
    confusion = statistics.confusion_matrix(labels, predictions, len(names))
    few_classes = len(names) <= MAX_MATRIX_CLASSES
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
      labels, predictions, labels=classes, zero_division=0
    )
    num_correct = int(confusion.trace())
    return {
      "num_examples": len(labels),
      "loss": statistics.cross_entropy(logits, labels),
      "accuracy": num_correct / len(labels),
      "accuracy_ci95": statistics.accuracy_interval(num_correct, len(labels), seed),
      "balanced_accuracy": float(recall[support > 0].mean()),
      "macro_f1": float(f1[(support > 0) | (confusion.sum(axis=0) > 0)].mean()),
      "macro_f1_ci95": statistics.macro_f1_interval(confusion, seed),
      "matthews": float(sklearn.metrics.matthews_corrcoef(labels, predictions))
      if few_classes
      else statistics.matthews(confusion),
      "per_class": {
        str(name): {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(names, precision, recall, f1, support)
      },
    } | (
      {"confusion_matrix": confusion.toarray().tolist()}
      if few_classes
      else {"confusion_cells": np.stack([*confusion.nonzero(), confusion.data], axis=1).tolist()}
    )

  def baseline(self, train_targets, targets):
    return {"majority_accuracy": statistics.majority_accuracy(train_targets, targets)}

  def baseline_score(self, metrics):
    return metrics.get("majority_accuracy")

  def sufficient_statistics(self, rows):
    return np.array([(row["label"] == row["prediction"], 1.0) for row in rows])

  def score_from_statistics(self, sums):
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


@dataclasses.dataclass(frozen=True)
class MacroF1Metrics(CountMetrics, AccuracyMetrics):
  """With --imbalance macro F1 decides: rare classes hardly count in accuracy."""

  primary_metric: typing.ClassVar = "macro_f1"
  metric_titles: typing.ClassVar = {
    "macro_f1": "macro F1",
    "balanced_accuracy": "mean recall",
    "accuracy": "accuracy",
    "matthews": "Matthews",
  }
  test_title: typing.ClassVar = "randomisation test"
  counts_right_answers: typing.ClassVar = False

  def monitor_metrics(self, logits, targets):
    return super().monitor_metrics(logits, targets) | {"accuracy": AccuracyMetrics.score(self, logits, targets)}

  def baseline(self, train_targets, targets):
    majority = np.eye(len(self.codec.names))[[np.bincount(train_targets).argmax()] * len(targets)]
    metrics = {"baseline": {self.primary_metric: self.score(majority, targets)}}
    return super().baseline(train_targets, targets) | metrics

  def baseline_score(self, metrics):
    return metrics.get("baseline", {}).get(self.primary_metric)

  def sufficient_statistics(self, rows):
    answers, targets = (
      self.codec.as_probabilities(self.codec.targets([row[name] for row in rows])) for name in ("prediction", "label")
    )
    return statistics.class_counts(answers, targets)

  def score_from_statistics(self, sums):
    return statistics.macro_f1(sums)

  def counts(self, outputs, targets):
    return statistics.class_counts(
      self.codec.as_probabilities(outputs.argmax(axis=1)), self.codec.as_probabilities(targets)
    )


@dataclasses.dataclass(frozen=True)
class SingleLabelAnswers(Answers):
  """The class with the highest probability, which is its score."""

  @property
  def columns(self):
    return (*super().columns, "next_label", "next_score")

  def outputs(self, logits):
    return statistics.softmax(logits)

  def rows(self, ids, labels, outputs):
    best, names = outputs.argmax(axis=1), self.codec.names
    for example_id, label, index, row in zip(ids, labels, best, outputs):
      after = np.delete(row, index).argmax()
      after += after >= index
      # Nine significant digits tell any two float32 apart.
      yield example_id, label, names[index], f"{row[index]:.9g}", names[after], f"{row[after]:.9g}"

  def signature_outputs(self, logits, inputs):
    import tensorflow as tf

    probabilities = tf.nn.softmax(logits)
    return {
      "label": tf.gather(tf.constant(self.codec.names), tf.argmax(probabilities, axis=-1)),
      "score": tf.reduce_max(probabilities, axis=-1),
      "probabilities": probabilities,
    }

  def decode(self, served, inputs):
    for label, score, row in zip(*(served[name] for name in ("label", "score", "probabilities"))):
      probabilities = {name: float(p) for name, p in zip(self.codec.names, row)}
      yield {"label": label.decode("utf-8"), "score": float(score), "probabilities": probabilities}

  def parity(self, served, outputs):
    top = np.sort(outputs, axis=1)
    decided = top[:, -1] - top[:, -2] > TIE
    expected = np.asarray(self.codec.names, dtype=str)[outputs.argmax(axis=1)]
    return statistics.class_parity(served["probabilities"], outputs, (served["label"] != expected) & decided)


def _task(loss, metrics):
  codec = SingleLabelCodec()
  return Task(
    name="single_label",
    codec=codec,
    loss=loss(codec),
    metrics=metrics(codec, loss(codec)),
    answers=SingleLabelAnswers(codec),
    single_label=True,
    supports_mixup=True,
    probe_solvers=("adamw", "logistic", "svm"),
    imbalances=("class_weights", "focal", "balanced", "logit_adjustment"),
  )


SINGLE_LABEL = _task(SoftmaxLoss, AccuracyMetrics)
# With --imbalance.
IMBALANCED = _task(ClassBalancedLoss, MacroF1Metrics)
