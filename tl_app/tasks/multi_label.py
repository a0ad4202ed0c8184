"""Any number of classes an example: a sigmoid each, and a threshold each that is tuned on the validation split."""

import dataclasses
import json
import typing

import numpy as np
import scipy.special
import sklearn.metrics
import sklearn.multiclass

from tl_app.config import AUTO
from tl_app.errors import UserError
from tl_app.tasks import calibration, cells, decisions, explained, selective, solvers, statistics, thresholds, wording
from tl_app.tasks.answers import Answers, highest
from tl_app.tasks.label_codec import OOD_SCORE, LabelCodec
from tl_app.tasks.loss_spec import LossSpec
from tl_app.tasks.metrics import CountMetrics, usable_logits
from tl_app.tasks.task import Task

# Nearer to its threshold than float32 rounding, a probability may fall on either side.
TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class MultiLabelCodec(LabelCodec):
  """Targets are float32 [n, classes] of 0 and 1.

  Attributes:
    separator: between the names in a cell, and in the answers.
    columns_of_labels: names of the 0/1 columns, if the cells are lists of these; else ().
    thresholds: a class is answered if its calibrated probability is above its threshold; () before `calibrate`.
    slopes: of Platt scaling, one for each class; () for no calibration.
    offsets: of Platt scaling, likewise.
    precisions: wanted by --min_precision, one for each class, 0 for none; () if there are none.
  """

  separator: str = ","
  columns_of_labels: tuple = ()
  thresholds: tuple = ()
  slopes: tuple = ()
  offsets: tuple = ()
  precisions: tuple = ()

  def configure(self, config, labels):
    distinct = set(labels)
    columns = tuple(name.strip() for name in config.label_columns.split(",") if name.strip())
    if len(columns) == 1:
      raise UserError(f"--label_columns={columns[0]} names one column: pass --label_column={columns[0]}")
    mark = config.label_separator or cells.separator(distinct) or cells.most_frequent_separator(distinct)
    return dataclasses.replace(self, separator=mark, columns_of_labels=columns)

  def classes(self, labels):
    return [tuple(sorted(self._names_in(label))) for label in labels]

  def fit(self, labels):
    classes = self.classes(labels)
    found = {name for names in classes for name in names}
    missing = [name for name in self.columns_of_labels if name not in found]
    if missing:
      raise UserError(
        f"train has no positive example of {missing[0]!r} (--label_columns): add some, or remove the column from the "
        "flag"
      )
    if len(found) < 2:
      raise UserError(f"{len(found)} class in train: --task=multi_label needs two or more")
    names = self.columns_of_labels or tuple(sorted(found))
    separators = (self.separator, *cells.SEPARATORS, "\t")
    unused = next(mark for mark in separators if mark == "\t" or not any(mark in name for name in names))
    return dataclasses.replace(self, names=names, separator=unused)

  def targets(self, labels):
    position = {name: index for index, name in enumerate(self.names)}
    targets = np.zeros((len(labels), len(position)), np.float32)
    for row, names in zip(targets, self.classes(labels)):
      unknown = [name for name in names if name not in position]
      if unknown:
        raise cells.unknown(unknown[0], self.names)
      row[[position[name] for name in names]] = 1
    return targets

  def as_probabilities(self, targets):
    return targets

  def decide(self, config):
    wanted = decisions.check_precisions(config.min_precision, self.names)
    return dataclasses.replace(self, precisions=decisions.in_order(wanted, self.names))

  def calibrate(self, logits, targets, config):
    # Thresholds of uncalibrated probabilities, moved with them: no answer changes.
    limits, fitted = thresholds.best(_probabilities(logits), targets), self
    if config.calibration == AUTO:
      slopes, offsets = (tuple(values.tolist()) for values in calibration.fit_platt(logits, targets))
      fitted = dataclasses.replace(self, slopes=slopes, offsets=offsets)
      moved = _probabilities(fitted.calibrated(scipy.special.logit(np.maximum(limits, 0))))
      # One that is not above 0 answers its class always.
      limits = np.where(limits > 0, moved, limits)
    probabilities = _probabilities(fitted.calibrated(np.float64(logits)))
    for number in np.flatnonzero(self.precisions):
      right, error = np.asarray(targets)[:, number] > 0, 1 - self.precisions[number]
      limits[number] = selective.threshold_for_error(probabilities[:, number], right, error)
    return dataclasses.replace(fitted, thresholds=tuple(float(value) for value in limits))

  def calibrated(self, logits):
    if not self.slopes:
      return logits
    return logits * np.array(self.slopes, np.float32) + np.array(self.offsets, np.float32)

  def join(self, chosen: np.ndarray) -> str:
    """Returns the names of the classes that are chosen, bool [classes], as a cell."""
    return self.separator.join(name for name, yes in zip(self.names, chosen) if yes)

  def chosen(self, cell: str) -> list[int]:
    """Returns what `join` made the cell of, a list of 0 and 1."""
    names = cell.split(self.separator)
    return [int(name in names) for name in self.names]

  def _names_in(self, label):
    values = cells.listed(label)
    if not self.columns_of_labels:
      return set(cells.split(label, self.separator) if values is None else filter(None, map(str.strip, values)))
    if values is None or len(values) != len(self.columns_of_labels):
      raise UserError(f"--label_columns names {len(self.columns_of_labels)} columns, but a label is {label!r}")
    for name, value in zip(self.columns_of_labels, values):
      if value.lower() not in cells.FLAGS:
        raise UserError(
          f"--task=multi_label, but the column {name!r} of --label_columns holds {value!r}: expected 0 or 1"
        )
    return {name for name, value in zip(self.columns_of_labels, values) if cells.FLAGS[value.lower()]}


@dataclasses.dataclass(frozen=True)
class SigmoidLoss(LossSpec):
  """Binary cross-entropy of each class."""

  title: typing.ClassVar = "binary cross-entropy in nats, mean over the classes"

  def initial_bias(self, targets):
    shares = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
    return scipy.special.logit(shares).astype(np.float32)

  def loss(self, label_smoothing):
    import keras

    return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)

  def weighted_loss(self, label_smoothing, imbalance, targets):
    from tl_app.tasks import losses

    return losses.sigmoid(targets.sum(axis=0).astype(int), len(targets), label_smoothing, imbalance)

  def mean_loss(self, logits, targets):
    logits = np.float64(logits)
    return float(np.mean(np.logaddexp(0, logits) - logits * targets))

  def probe_estimators(self, solver):
    return [(c, sklearn.multiclass.OneVsRestClassifier(model)) for c, model in solvers.classifiers(solver)]

  def baseline_estimator(self):
    return sklearn.multiclass.OneVsRestClassifier(solvers.sparse_classifier())

  def probe_weights(self, estimator):
    # A class that every example has gets no model, but a constant answer.
    width = next(model.coef_.shape[1] for model in estimator.estimators_ if hasattr(model, "coef_"))
    pairs = [
      (model.coef_[0], model.intercept_[0]) if hasattr(model, "coef_") else (np.zeros(width), 10.0)
      for model in estimator.estimators_
    ]
    return np.stack([kernel for kernel, _ in pairs], axis=1), np.array([bias for _, bias in pairs])


@dataclasses.dataclass(frozen=True)
class MultiLabelMetrics(CountMetrics):
  """Macro F1 decides. Between two models it is compared at the best thresholds of each."""

  primary_metric: typing.ClassVar = "macro_f1"
  metric_titles: typing.ClassVar = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "subset_accuracy": "subset accuracy",
  }
  baseline_name: typing.ClassVar = "every_class"
  baseline_title: typing.ClassVar = "answering every class"
  class_titles: typing.ClassVar = {"average_precision": "average precision", "threshold": "threshold"}
  class_note: typing.ClassVar = (
    "A class is answered if its probability is above its threshold, which was tuned on the validation split."
  )

  def compute_metrics(self, logits, targets, seed=0):
    """Returns the metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, classes], finite; n is at least 1.
      targets: float [n, classes] of 0 and 1.
      seed: seed of the bootstrap.

    Returns:
      A dict: "num_examples"; "loss"; "macro_f1" (mean over the classes that have examples or answers),
      "micro_f1" (over all answers), "subset_accuracy" (share of the examples without any wrong class), each with
      "_ci95", the 95 % percentile bootstrap interval over examples, or None with fewer than ten right or wrong answers;
      "per_class" {name: {"precision", "recall", "f1", "support", "average_precision", "threshold"}}; "calibration" (see
      `calibration`, and "uncalibrated" with the same of the uncalibrated probabilities); "min_precision" (see
      `decisions.measure_precisions`) if it is given. What is 0/0 counts 0.
    """
    uncalibrated, targets = usable_logits(logits, targets), np.asarray(targets)
    logits = self.codec.calibrated(np.float64(uncalibrated))
    probabilities = _probabilities(logits)
    answers = probabilities > np.array(self.codec.thresholds)
    counts = statistics.class_counts(answers, targets)
    exact = (answers == targets).all(axis=1)
    hits = counts.sum(axis=0).reshape(3, -1)[0]
    metrics = {"num_examples": len(targets), "loss": self.loss.mean_loss(logits, targets)}
    metrics["macro_f1"] = float(statistics.macro_f1(counts.sum(axis=0)))
    metrics["micro_f1"] = float(_micro_f1(counts.sum(axis=0)))
    metrics["subset_accuracy"] = float(exact.mean())
    few = min(hits.sum(), (answers != targets).sum()) < statistics.FEW
    for key, statistic in (("macro_f1", statistics.macro_f1), ("micro_f1", _micro_f1)):
      metrics[f"{key}_ci95"] = None if few else statistics.bootstrap(counts, statistic, seed)
    metrics["subset_accuracy_ci95"] = statistics.accuracy_interval(int(exact.sum()), len(exact), seed)
    metrics["per_class"] = self._per_class(counts.sum(axis=0), probabilities, targets)
    if any(self.codec.precisions):
      wanted = zip(self.codec.names, self.codec.precisions, self.codec.thresholds)
      metrics["min_precision"] = decisions.measure_precisions(
        wanted, lambda number: (answers[:, number], targets[:, number] > 0, None), seed
      )
    before = self.calibration(uncalibrated, targets)
    return metrics | {"calibration": self.calibration(logits, targets) | {"uncalibrated": before}}

  def headline(self, test):
    recall, precision = map(wording.of_hundred, wording.totals(test))
    return f"{recall} labels found, {precision} answers right"

  def describe(self, test):
    recall, precision = map(wording.of_hundred, wording.totals(test))
    exact = wording.of_hundred(test["subset_accuracy"], test["num_examples"])
    return [
      f"Of the classes that apply to an example it finds {recall}; of those that it answers {precision} are right.",
      f"For {exact} examples the answer is right in every class.",
    ]

  def calibration(self, calibrated, targets):
    probabilities = _probabilities(calibrated)
    return {
      "loss": self.loss.mean_loss(calibrated, targets),
      "brier": float(np.mean(np.square(probabilities - targets))),
    } | calibration.quality(probabilities.ravel(), targets.ravel())

  def _per_class(self, sums, probabilities, targets):
    ranked = [
      float(sklearn.metrics.average_precision_score(truth, p)) if truth.any() else 0.0
      for truth, p in zip(targets.T, probabilities.T)
    ]
    return {
      name: {
        "precision": float(hit / max(of, 1)),
        "recall": float(hit / max(have, 1)),
        "f1": float(2 * hit / max(of + have, 1)),
        "support": int(have),
        "average_precision": average_precision,
        "threshold": threshold,
      }
      for name, hit, of, have, average_precision, threshold in zip(
        self.codec.names, *sums.reshape(3, -1), ranked, self.codec.thresholds
      )
    }

  def baseline(self, train_targets, targets):
    counts = statistics.class_counts(np.ones_like(targets), targets).sum(axis=0)
    return {"baseline": {"macro_f1": float(statistics.macro_f1(counts)), "micro_f1": float(_micro_f1(counts))}}

  def decisions(self, rows):
    answers, truth = (np.array([self.codec.chosen(row[name]) for row in rows]) for name in ("prediction", "label"))
    return answers, truth

  def sufficient_statistics(self, rows):
    return statistics.class_counts(*self.decisions(rows))

  def score_from_statistics(self, sums):
    return statistics.macro_f1(sums)

  def counts(self, outputs, targets):
    return statistics.class_counts(outputs > thresholds.best(outputs, targets), targets)


@dataclasses.dataclass(frozen=True)
class MultiLabelAnswers(Answers):
  """The classes whose probabilities are above their thresholds; the score is the highest probability."""

  right: typing.ClassVar = "right in every class"
  sure: typing.ClassVar = "its highest probability is at least {percent}"

  def outputs(self, logits):
    return _probabilities(self.codec.calibrated(np.float64(logits)))

  def rows(self, ids, labels, outputs):
    answers = outputs > np.array(self.codec.thresholds)
    for example_id, truth, answer, row in zip(ids, self.codec.targets(labels), answers, outputs):
      # Nine significant digits tell any two float32 apart.
      yield example_id, self.codec.join(truth), self.codec.join(answer), f"{row.max():.9g}"

  def signature_outputs(self, logits, inputs):
    import tensorflow as tf

    probabilities = tf.sigmoid(self.codec.calibrated(logits))
    predicted = probabilities > tf.constant(self.codec.thresholds, tf.float32)
    names = tf.broadcast_to(tf.constant(self.codec.names), tf.shape(probabilities))
    chosen = tf.ragged.boolean_mask(names, predicted)
    return {
      "label": tf.strings.reduce_join(chosen, axis=-1, separator=self.codec.separator),
      "score": tf.reduce_max(probabilities, axis=-1),
      "predicted": predicted,
      "probabilities": probabilities,
    }

  def certainty(self, logits):
    return highest(logits)

  def decode(self, served, inputs):
    for predicted, score, row in zip(*(served[name] for name in ("predicted", "score", "probabilities"))):
      yield {
        "labels": [name for name, chosen in zip(self.codec.names, predicted) if chosen],
        "score": float(score),
        "probabilities": {name: float(p) for name, p in zip(self.codec.names, row)},
      }

  def explained(self, logits, names=()):
    """As of `Answers`; of an example without a class its most probable one."""
    probabilities = self.outputs(np.asarray(logits)[None])[0]
    answered = np.flatnonzero(probabilities > np.array(self.codec.thresholds)).tolist()
    chosen = explained.positions(names, self.explainable) or answered or [int(probabilities.argmax())]
    return [explained.Explained(self.codec.names[i], (i,), float(probabilities[i])) for i in chosen]

  def score(self, logits, place):
    return self.codec.calibrated(logits)[:, place[0]]

  def label_cells(self, answer):
    names = answer["labels"]
    # No class, or a name that another reader would divide, is a list: an empty cell is no label.
    if not names or any(mark in name for mark in cells.SEPARATORS for name in names):
      return [json.dumps(names, ensure_ascii=False)]
    return [self.codec.separator.join(names)]

  def describe_answer(self, answer):
    return ", ".join(f"{name} ({100 * answer['probabilities'][name]:.0f} %)" for name in answer["labels"]) or "no class"

  def check_labels(self, cells, inputs):
    dataclasses.replace(self.codec, columns_of_labels=()).classes(cells)

  def parity(self, served, outputs):
    limits = np.array(self.codec.thresholds)
    decided = np.abs(outputs - limits) > TIE
    flips = ((served["predicted"] != (outputs > limits)) & decided).any(axis=1)
    return statistics.class_parity(served["probabilities"], outputs, flips)


def _probabilities(logits):
  return scipy.special.expit(np.float64(logits))


def _micro_f1(sums):
  hits, predicted, support = (part.sum(axis=-1) for part in np.split(sums, 3, axis=-1))
  return 2 * hits / np.maximum(predicted + support, 1)


_CODEC = MultiLabelCodec()
_LOSS = SigmoidLoss(_CODEC)
MULTI_LABEL = Task(
  name="multi_label",
  codec=_CODEC,
  loss=_LOSS,
  metrics=MultiLabelMetrics(_CODEC, _LOSS),
  answers=MultiLabelAnswers(_CODEC),
  uses_separator=True,
  supports_mixup=True,
  probe_solvers=("adamw", "logistic", "svm"),
  closed_solver="logistic",
  imbalances=("class_weights", "focal"),
  answer_flags=("calibration", "min_precision", "min_accept", "accept_by", "ood_score", "ood_dataset"),
  accept_by=(OOD_SCORE,),
)
