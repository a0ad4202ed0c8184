"""One class an example: softmax and cross-entropy."""

import dataclasses
import typing

import numpy as np
import sklearn.metrics

from tl_app.errors import UserError
from tl_app.tasks import cells, solvers, statistics
from tl_app.tasks.task import Task

# Two classes nearer than float32 rounding are a tie: which of them comes first is not a flip.
TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class SingleLabel(Task):
  """Targets are int32 [n], the classes' positions in `names`, which are sorted as text ("10" before "2")."""

  name: typing.ClassVar = "single_label"
  score: typing.ClassVar = "accuracy"
  shown: typing.ClassVar = {"accuracy": "accuracy", "macro_f1": "macro F1", "matthews": "Matthews"}
  baseline_name: typing.ClassVar = "majority"
  baseline_title: typing.ClassVar = "always answering the commonest class"
  loss_title: typing.ClassVar = "cross-entropy in nats"
  test_title: typing.ClassVar = "McNemar's exact test"
  solvers: typing.ClassVar = ("adamw", "logistic", "svm")
  mixes: typing.ClassVar = True
  imbalances: typing.ClassVar = ("class_weights", "focal", "balanced", "logit_adjustment")
  exclusive: typing.ClassVar = True

  @classmethod
  def read(cls, config, labels):
    return cls() if config.imbalance == "none" else RareClasses()

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
    place = {name: index for index, name in enumerate(self.names)}
    unknown = sorted(set(labels) - set(place))
    if unknown:
      raise cells.unknown(unknown[0], self.names)
    return np.array([place[label] for label in labels], np.int32)

  def dense(self, targets):
    return np.eye(len(self.names), dtype=np.float32)[targets]

  def loss(self, label_smoothing):
    import keras

    if not label_smoothing:
      return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Keras smooths one-hot targets only.
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    return lambda labels, logits: smoothed(keras.ops.one_hot(labels, len(self.names)), logits)

  def weighted_loss(self, label_smoothing, imbalance, targets):
    from tl_app.tasks import losses

    return losses.softmax(np.bincount(targets, minlength=len(self.names)), label_smoothing, imbalance)

  def watched(self):
    import keras

    from tl_app.tasks import losses

    return [keras.metrics.MeanMetricWrapper(losses.hits, name="accuracy")]

  def score_of(self, outputs, targets):
    return float(np.mean(outputs.argmax(axis=1) == targets))

  def mean_loss(self, logits, targets):
    return statistics.cross_entropy(logits, targets)

  def p_value(self, first, second, targets):
    return statistics.mcnemar(first.argmax(axis=1) == targets, second.argmax(axis=1) == targets)

  def estimators(self, solver):
    return solvers.classifiers(solver)

  def weights(self, estimator):
    return solvers.softmax_weights(estimator)

  def outputs(self, logits):
    return statistics.softmax(logits)

  def measure(self, logits, targets, seed=0):
    """Returns the metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, classes], finite; n is at least 1.
      targets: int [n], the true class of each row, in [0, classes).
      seed: seed of the bootstrap.

    Returns:
      A dict: "num_examples"; "loss" (mean cross-entropy in nats); "accuracy"; "accuracy_ci95" ([low, high], see
      `statistics.accuracy_interval`); "balanced_accuracy" (mean recall over the classes with examples); "macro_f1"
      (mean F1 over all classes); "macro_f1_ci95" ([low, high] or None, see `statistics.macro_f1_interval`); "matthews"
      (the correlation of Matthews, -1 to 1; Gorodkin 2004 for several classes); "per_class" {name: {"precision",
      "recall", "f1", "support"}}; "confusion_matrix" (rows: true class, columns: predicted class). A precision, recall
      or F1 that is 0/0 counts 0: a class with neither examples nor predictions lowers the macro F1.
    """
    logits, labels = self._usable(logits, targets), np.asarray(targets)
    predictions = logits.argmax(axis=1)
    classes = np.arange(len(self.names))
    confusion = sklearn.metrics.confusion_matrix(labels, predictions, labels=classes)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
      labels, predictions, labels=classes, zero_division=0
    )
    num_correct = int(np.trace(confusion))
    return {
      "num_examples": len(labels),
      "loss": statistics.cross_entropy(logits, labels),
      "accuracy": num_correct / len(labels),
      "accuracy_ci95": statistics.accuracy_interval(num_correct, len(labels), seed),
      "balanced_accuracy": float(recall[support > 0].mean()),
      "macro_f1": float(f1.mean()),
      "macro_f1_ci95": statistics.macro_f1_interval(confusion, seed),
      "matthews": float(sklearn.metrics.matthews_corrcoef(labels, predictions)),
      "per_class": {
        str(name): {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(self.names, precision, recall, f1, support)
      },
      "confusion_matrix": confusion.tolist(),
    }

  def baseline(self, train_targets, targets):
    return {"majority_accuracy": statistics.majority_accuracy(train_targets, targets)}

  @classmethod
  def baseline_score(cls, metrics):
    return metrics.get("majority_accuracy")

  def rows(self, ids, labels, outputs):
    best = outputs.argmax(axis=1)
    # Nine significant digits tell any two float32 apart.
    for example_id, label, index, score in zip(ids, labels, best, outputs[np.arange(len(best)), best]):
      yield example_id, label, self.names[index], f"{score:.9g}"

  def evidence(self, rows):
    return np.array([(row["label"] == row["prediction"], 1.0) for row in rows])

  def score_from(self, sums):
    return sums[..., 0] / np.maximum(sums[..., 1], 1)

  def serve(self, logits, inputs):
    import tensorflow as tf

    probabilities = tf.nn.softmax(logits)
    return {
      "label": tf.gather(tf.constant(self.names), tf.argmax(probabilities, axis=-1)),
      "score": tf.reduce_max(probabilities, axis=-1),
      "probabilities": probabilities,
    }

  def answers(self, served, inputs):
    for label, score, row in zip(*(served[name] for name in ("label", "score", "probabilities"))):
      probabilities = {name: float(p) for name, p in zip(self.names, row)}
      yield {"label": label.decode("utf-8"), "score": float(score), "probabilities": probabilities}

  def compare(self, served, outputs):
    top = np.sort(outputs, axis=1)
    decided = top[:, -1] - top[:, -2] > TIE
    expected = np.asarray(self.names, dtype=str)[outputs.argmax(axis=1)]
    return statistics.class_proof(served["probabilities"], outputs, (served["label"] != expected) & decided)


class RareClasses(SingleLabel):
  """With --imbalance: macro F1 decides in place of accuracy, in which rare classes hardly count.

  The loss by which an epoch of the probe is chosen is the mean over the classes, not over the examples, likewise.
  """

  score: typing.ClassVar = "macro_f1"
  shown: typing.ClassVar = {
    "macro_f1": "macro F1",
    "balanced_accuracy": "mean recall",
    "accuracy": "accuracy",
    "matthews": "Matthews",
  }
  loss_title: typing.ClassVar = "cross-entropy in nats, mean over the classes in validation"
  test_title: typing.ClassVar = "randomisation test"

  def score_of(self, outputs, targets):
    return float(self.score_from(self._counts(outputs, targets).sum(axis=0)))

  def mean_loss(self, logits, targets):
    own = -statistics.log_softmax(logits)[np.arange(len(targets)), targets]
    return float(np.mean([own[targets == name].mean() for name in np.unique(targets)]))

  def figures(self, logits, targets):
    return super().figures(logits, targets) | {"accuracy": super().score_of(logits, targets)}

  def p_value(self, first, second, targets):
    one, two = self._counts(first, targets), self._counts(second, targets)
    return statistics.randomisation([(one, two, self.score_from)])

  def baseline(self, train_targets, targets):
    commonest = np.eye(len(self.names))[[np.bincount(train_targets).argmax()] * len(targets)]
    return super().baseline(train_targets, targets) | {"baseline": {self.score: self.score_of(commonest, targets)}}

  @classmethod
  def baseline_score(cls, metrics):
    return metrics.get("baseline", {}).get(cls.score)

  def evidence(self, rows):
    answers, targets = (self.dense(self.targets([row[name] for row in rows])) for name in ("prediction", "label"))
    return statistics.class_counts(answers, targets)

  def score_from(self, sums):
    return statistics.macro_f1(sums)

  def _counts(self, outputs, targets):
    return statistics.class_counts(self.dense(outputs.argmax(axis=1)), self.dense(targets))
