"""One class an example: softmax and cross-entropy."""

import dataclasses
import json
import typing

import numpy as np
import sklearn.metrics

from tl_app.config.groups import AnswerConfig
from tl_app.tasks import (
  calibration,
  decisions,
  explained,
  prediction_sets,
  selective,
  solvers,
  statistics,
  wording,
)
from tl_app.tasks.answers import Answers, highest
from tl_app.tasks.label_codec import COST, OOD_SCORE, PROBABILITY
from tl_app.tasks.loss_spec import LossSpec
from tl_app.tasks.metrics import CountMetrics, Metrics, usable_logits
from tl_app.tasks.single_label_codec import SingleLabelCodec
from tl_app.tasks.task import Task

# Two classes nearer than float32 rounding are a tie: which of them comes first does not matter.
TIE = 1e-6
# The same of a class and the threshold of its prediction set, which may lie at a sum of probabilities.
SET_TIE = 1e-5
# By how much the mean recall of the classes must be below the accuracy to be worth a sentence.
_RARE_IS_HARDER = 0.03
# With more classes the confusion matrix is written as its cells above 0: at most one for each example.
MAX_MATRIX_CLASSES = 200


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

  def baseline_estimator(self):
    return solvers.sparse_classifier()

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

  def compare_losses(self, first, second, targets):
    return calibration.compare_losses(first, second, targets) if self.counts_right_answers else None

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
      the true class, of the predicted class, count] of each cell above 0); "calibration" (see `calibration`, and
      "uncalibrated" with the same of the uncalibrated probabilities); "risk_coverage" (see
      `calibration.risk_coverage`); "prediction_sets", "selective" (see `selective.measure`), "costs" and
      "min_precision" (see `decisions.measure_costs` and `decisions.measure_precisions`) if there are any. A precision,
      recall or F1 that is 0/0 counts 0.
    """
    uncalibrated, labels = usable_logits(logits, targets), np.asarray(targets)
    logits = self.codec.calibrated(np.float64(uncalibrated))
    predictions = self.codec.decision.choose(statistics.softmax(logits))
    names = self.codec.names
    classes = np.arange(len(names))
    confusion = statistics.confusion_matrix(labels, predictions, len(names))
    few_classes = len(names) <= MAX_MATRIX_CLASSES
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
      labels, predictions, labels=classes, zero_division=0
    )
    num_correct = int(confusion.trace())
    return (
      {
        "num_examples": len(labels),
        "loss": statistics.cross_entropy(logits, labels),
        "accuracy": num_correct / len(labels),
        "accuracy_ci95": statistics.accuracy_interval(num_correct, len(labels), seed),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1[(support > 0) | (confusion.sum(axis=0) > 0)].mean()),
        "macro_f1_ci95": statistics.macro_f1_interval(confusion, seed),
        "matthews": statistics.matthews(confusion),
        "per_class": {
          str(name): {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
          for name, p, r, f, s in zip(names, precision, recall, f1, support)
        },
      }
      | (
        {"confusion_matrix": confusion.toarray().tolist()}
        if few_classes
        else {"confusion_cells": np.stack([*confusion.nonzero(), confusion.data], axis=1).tolist()}
      )
      | self._confidence(uncalibrated, logits, labels, seed)
    )

  def _confidence(self, uncalibrated, logits, labels, seed):
    """Returns the part of `compute_metrics` about probabilities and sets."""
    probabilities = statistics.softmax(logits)
    before = self.calibration(uncalibrated, labels)
    chosen = self.codec.decision.choose(probabilities)
    scores = probabilities[np.arange(len(chosen)), chosen]
    found = {
      "calibration": self.calibration(logits, labels) | {"uncalibrated": before},
      "risk_coverage": calibration.risk_coverage(scores, chosen == labels),
    } | self._decided(probabilities, chosen, scores, labels, seed)
    rule = self.codec.set_rule
    if rule is None:
      return found
    measured = prediction_sets.measure(rule.members(probabilities), labels, seed)
    return found | {"prediction_sets": {"coverage": self.codec.coverage, "method": rule.method} | measured}

  def _decided(self, probabilities, chosen, scores, labels, seed):
    """Returns the part of `compute_metrics` about accepted answers, costs and wanted precisions."""
    codec, found, accepted = self.codec, {}, np.ones(len(labels), bool)
    if codec.accept_by in (PROBABILITY, COST):
      accepted = codec.decision.margins(probabilities, scores, codec.accept_threshold) >= 0
      how = {"by": codec.accept_by} | ({"threshold": codec.accept_threshold} if codec.accept_by == PROBABILITY else {})
      found["selective"] = how | selective.measure(accepted, chosen == labels, seed)
    answers = chosen, probabilities.argmax(axis=1), labels
    if codec.costs:
      found["costs"] = decisions.measure_costs(codec.decision, *answers, accepted, seed)
    if any(codec.floors):
      wanted = zip(codec.names, codec.precisions, codec.floors)
      found["min_precision"] = decisions.measure_precisions(
        wanted, lambda number: tuple(given == number for given in (chosen, labels, answers[1])), seed
      )
    return found

  def right(self, outputs, targets):
    return self.codec.decision.choose(outputs) == targets

  def calibration(self, calibrated, targets):
    return calibration.of_one_class(calibrated, targets)

  def headline(self, test):
    return f"{wording.of_hundred(test['accuracy'], test['num_examples'])} right"

  def describe(self, test):
    low, high = test["accuracy_ci95"]
    right = wording.of_hundred(test["accuracy"], test["num_examples"])
    sentences = [
      f"{right} answers are right. On other examples of the same kind, expect {100 * low:.0f} to {100 * high:.0f} of "
      "100 (95 % interval)."
    ]
    if test["balanced_accuracy"] < test["accuracy"] - _RARE_IS_HARDER:
      sentences.append(
        f"Of a class it finds {wording.of_hundred(test['balanced_accuracy'])} on average: fewer than of all examples, "
        "so rare classes are harder."
      )
    return sentences

  def describe_against(self, test, baseline):
    of_baseline = wording.of_hundred(baseline["majority_accuracy"], test["num_examples"])
    return f"{self.headline(test)}, against {of_baseline} of always answering {self.baseline_title}"

  def baseline(self, train_targets, targets):
    return {"majority_accuracy": statistics.majority_accuracy(train_targets, targets)}

  def baseline_score(self, metrics):
    return metrics.get("majority_accuracy")

  def decisions(self, rows):
    answers, truth = (self.codec.targets([row[name] for row in rows]) for name in ("prediction", "label"))
    return self.codec.as_probabilities(answers), self.codec.as_probabilities(truth)

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

  def describe_against(self, test, baseline):
    return Metrics.describe_against(self, test, baseline)

  def baseline_score(self, metrics):
    return metrics.get("baseline", {}).get(self.primary_metric)

  def sufficient_statistics(self, rows):
    return statistics.class_counts(*self.decisions(rows))

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
    return statistics.softmax(self.codec.calibrated(np.float64(logits)))

  def rows(self, ids, labels, outputs):
    best, names = self.codec.decision.choose(outputs), self.codec.names
    for example_id, label, index, row in zip(ids, labels, best, outputs):
      after = np.delete(row, index).argmax()
      after += after >= index
      # Nine significant digits tell any two float32 apart.
      yield example_id, label, names[index], f"{row[index]:.9g}", names[after], f"{row[after]:.9g}"

  def more_cells(self, outputs, ood_scores=None):
    cells, rule = super().more_cells(outputs, ood_scores), self.codec.set_rule
    if rule is None:
      return cells
    names = np.array(self.codec.names, dtype=object)
    sets = [json.dumps(names[members].tolist(), ensure_ascii=False) for members in rule.members(outputs)]
    return {"prediction_set": sets} | cells

  def signature_outputs(self, logits, inputs):
    import tensorflow as tf

    probabilities, rule = tf.nn.softmax(self.codec.calibrated(logits)), self.codec.set_rule
    chosen = tf.argmax(self.codec.decision.values(probabilities), axis=-1)
    scores = tf.gather(probabilities, chosen, batch_dims=1)
    outputs = {
      "label": tf.gather(tf.constant(self.codec.names), chosen),
      "score": scores,
      "probabilities": probabilities,
    }
    if self.codec.accept_by in (PROBABILITY, COST):
      outputs["accept"] = self.codec.decision.margins(probabilities, scores, self.codec.accept_threshold) >= 0
    return outputs | ({"prediction_set": rule.tensor_members(probabilities)} if rule else {})

  def certainty(self, logits):
    return highest(logits)

  def margins(self, outputs, ood_scores=None):
    if self.codec.accept_by not in (PROBABILITY, COST):
      return super().margins(outputs, ood_scores)
    chosen = self.codec.decision.choose(outputs)
    scores = outputs[np.arange(len(chosen)), chosen]
    return self.codec.decision.margins(outputs, scores, self.codec.accept_threshold)

  def decode(self, served, inputs):
    members = served.get("prediction_set", [None] * len(served["label"]))
    rows = zip(*(served[name] for name in ("label", "score", "probabilities")), members)
    for label, score, row, member in rows:
      probabilities = {name: float(p) for name, p in zip(self.codec.names, row)}
      answer = {"label": label.decode("utf-8"), "score": float(score), "probabilities": probabilities}
      named = [] if member is None else [name for name, inside in zip(self.codec.names, member) if inside]
      yield answer | ({} if member is None else {"prediction_set": named})

  def explained(self, logits, names=()):
    outputs = self.outputs(np.asarray(logits)[None])
    probabilities = outputs[0]
    chosen = explained.positions(names, self.explainable) or [int(self.codec.decision.choose(outputs)[0])]
    return [explained.Explained(self.codec.names[i], (i,), float(probabilities[i])) for i in chosen]

  def score(self, logits, place):
    return explained.log_odds(self.codec.calibrated(logits), *place)

  def label_cells(self, answer):
    return [answer["label"]]

  def describe_answer(self, answer):
    found = f"{answer['label']}, {100 * answer['score']:.0f} % sure"
    if "prediction_set" not in answer:
      return found
    others = [name for name in answer["prediction_set"] if name != answer["label"]]
    if not answer["prediction_set"]:
      return f"{found}; the prediction set is empty: the input is unlike the training data"
    return f"{found}; it may also be {' or '.join(others)}" if others else f"{found}; nothing else is likely"

  def parity(self, served, outputs):
    decided = self.codec.decision.distances(outputs) > TIE
    expected = np.asarray(self.codec.names, dtype=str)[self.codec.decision.choose(outputs)]
    found = statistics.class_parity(served["probabilities"], outputs, (served["label"] != expected) & decided)
    rule = self.codec.set_rule
    if rule is None:
      return found
    moved = (served["prediction_set"] != rule.members(outputs)) & (rule.distances(outputs) > SET_TIE)
    return found | {"set_differences": int(moved.any(axis=1).sum())}

  def is_equal(self, parity, tolerance):
    return super().is_equal(parity, tolerance) and not parity.get("set_differences")


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
    closed_solver="logistic",
    imbalances=("class_weights", "focal", "balanced", "logit_adjustment"),
    answer_flags=tuple(field.name for field in dataclasses.fields(AnswerConfig)),
    accept_by=(PROBABILITY, OOD_SCORE),
  )


SINGLE_LABEL = _task(SoftmaxLoss, AccuracyMetrics)
# With --imbalance.
IMBALANCED = _task(ClassBalancedLoss, MacroF1Metrics)
