"""What a model is worth: loss, accuracy and F1 with intervals, per-class figures, the predictions file, the summary."""

import csv
import math
import pathlib

import numpy as np
import sklearn.metrics

from tl_app import files
from tl_app.errors import RunFailed, UserError

RESAMPLES = 2000
PREDICTION_COLUMNS = ("id", "label", "prediction", "score")

# Fewer right or wrong answers than this, and the resamples are too coarse for an interval.
_FEW = 10
_Z95 = 1.959963984540054


def log_softmax(logits):
  """Returns the float64 log-probabilities [n, classes] of finite `logits` [n, classes]; no overflow, no log of zero."""
  shifted = np.asarray(logits, dtype=np.float64)
  shifted = shifted - shifted.max(axis=1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits):
  """Returns the float64 probabilities [n, classes] of finite `logits` [n, classes]; every row sums to 1."""
  return np.exp(log_softmax(logits))


def cross_entropy(logits, label_indices):
  """Returns the mean cross-entropy, in nats, of `logits` [n, classes] with the true classes, int [n]."""
  # + 0.0 turns the -0.0 of a perfect model into 0.0.
  return float(-log_softmax(logits)[np.arange(len(label_indices)), label_indices].mean() + 0.0)


def measure(logits, label_indices, class_names, seed=0):
  """Returns the metrics of one split as plain Python values, ready for JSON.

  Args:
    logits: float [n, classes], finite; n is at least 1.
    label_indices: int [n], the true class of each row, in [0, classes).
    class_names: the names of the classes, in the order of the columns of `logits`.
    seed: seed of the bootstrap.

  Returns:
    A dict: "num_examples"; "loss" (mean cross-entropy in nats); "accuracy"; "accuracy_ci95" ([low, high], see
    `accuracy_interval`); "macro_f1" (mean F1 over all classes); "macro_f1_ci95" ([low, high] or None, see
    `macro_f1_interval`); "per_class" {name: {"precision", "recall", "f1", "support"}}; "confusion_matrix"
    (rows: true class, columns: predicted class). A precision, recall or F1 that is 0/0 counts 0: a class with
    neither examples nor predictions lowers the macro F1.

  Raises:
    UserError: the split is empty.
    RunFailed: a logit is NaN or infinite.
  """
  logits = np.asarray(logits)
  labels = np.asarray(label_indices)
  if not len(labels):
    raise UserError("there are no examples to evaluate: give a test split that is not empty")
  if not np.isfinite(logits).all():
    raise RunFailed("the model's logits hold NaN or infinity: lower --learning_rate")
  predictions = logits.argmax(axis=1)
  classes = np.arange(len(class_names))
  confusion = sklearn.metrics.confusion_matrix(labels, predictions, labels=classes)
  precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
    labels, predictions, labels=classes, zero_division=0
  )
  num_correct = int(np.trace(confusion))
  return {
    "num_examples": len(labels),
    "loss": cross_entropy(logits, labels),
    "accuracy": num_correct / len(labels),
    "accuracy_ci95": accuracy_interval(num_correct, len(labels), seed),
    "macro_f1": float(f1.mean()),
    "macro_f1_ci95": macro_f1_interval(confusion, seed),
    "per_class": {
      str(name): {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
      for name, p, r, f, s in zip(class_names, precision, recall, f1, support)
    },
    "confusion_matrix": confusion.tolist(),
  }


def accuracy_interval(num_correct, num_examples, seed=0):
  """Returns the 95 % interval [low, high] of an accuracy.

  The percentile bootstrap with `RESAMPLES` resamples. The number of right answers in a resample of n examples is
  binomial(n, accuracy), so it is drawn directly. With fewer than ten right or ten wrong answers the percentiles
  say too little (a model without an error would get [1, 1]): there it is Wilson's score interval
  (Wilson 1927; scipy.stats.binomtest(..).proportion_ci(method="wilson") gives the same).
  """
  accuracy = num_correct / num_examples
  if min(num_correct, num_examples - num_correct) < _FEW:
    return _wilson(accuracy, num_examples)
  resamples = np.random.default_rng(seed).binomial(num_examples, accuracy, size=RESAMPLES)
  return _percentiles(resamples / num_examples)


def macro_f1_interval(confusion, seed=0):
  """Returns the 95 % percentile bootstrap interval [low, high] of the macro F1 of a confusion matrix, or None.

  Resampled within each true class, as a stratified split is drawn, so that a rare class keeps its support in every
  resample; a row of the matrix is then multinomial. With fewer than ten right or ten wrong answers the resamples
  hardly differ, and no interval is given.
  """
  confusion = np.asarray(confusion)
  support = confusion.sum(axis=1)
  num_correct = np.trace(confusion)
  if min(num_correct, support.sum() - num_correct) < _FEW:
    return None
  rng = np.random.default_rng(seed)
  hits = np.zeros((RESAMPLES, len(confusion)), dtype=np.int32)
  predicted = np.zeros_like(hits)
  for row in np.flatnonzero(support):
    columns = np.flatnonzero(confusion[row])
    draws = rng.multinomial(support[row], confusion[row, columns] / support[row], size=RESAMPLES)
    predicted[:, columns] += draws.astype(np.int32)
    hits[:, row] = draws[:, columns == row].sum(axis=1)
  # F1 = 2 TP / (2 TP + FP + FN), and the sum below it is predictions plus support.
  return _percentiles((2 * hits / np.maximum(predicted + support, 1)).mean(axis=1))


def majority_accuracy(train_labels, test_labels):
  """Returns the accuracy on `test_labels` [m] of always answering the most frequent of `train_labels` [n].

  Of several equally frequent classes the first in sorted order answers.
  """
  names, counts = np.unique(np.asarray(train_labels), return_counts=True)
  return float((np.asarray(test_labels) == names[counts.argmax()]).mean())


def write_predictions(path, ids, labels, probabilities, class_names):
  """Writes one row per example, in the given order, as UTF-8 CSV with the header id,label,prediction,score; atomically.

  Args:
    path: the file to write.
    ids: str [n].
    labels: str [n], the true class names.
    probabilities: float [n, classes], rows that sum to 1.
    class_names: str [classes]. The prediction is the name of the largest probability, the score is that probability
      with nine significant digits, which tell any two float32 apart.
  """
  probabilities = np.asarray(probabilities)
  best = probabilities.argmax(axis=1)
  scores = probabilities[np.arange(len(best)), best]
  # A file name that is not UTF-8 comes as lone surrogates, which only backslashreplace can write.
  with files.atomic_path(path) as new, open(new, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(PREDICTION_COLUMNS)
    for example_id, label, index, score in zip(ids, labels, best, scores):
      writer.writerow((example_id, label, class_names[index], f"{score:.9g}"))


def summary(metrics, workdir=None):
  """Returns the few aligned lines that end a training.

  Args:
    metrics: the content of metrics.json. What it lacks is left out.
    workdir: directory of the run; adds the lines that say where the report, the metrics and the export are.
  """
  test = metrics.get("test", {})
  rows = [
    ("test accuracy", _with_interval(test, "accuracy"), f"{test.get('num_examples', 0):,} examples"),
    ("majority class", _figure(metrics.get("majority_accuracy")), "accuracy of always answering the commonest class"),
    ("macro F1", _with_interval(test, "macro_f1"), ""),
    ("validation", _with_interval(metrics.get("validation") or {}, "accuracy"), "accuracy"),
    ("rungs", _rungs(metrics.get("rungs")), ""),
    ("model", metrics.get("rung_reason") or metrics.get("rung"), ""),
    ("export", *_parity(metrics.get("parity"))),
    ("time", *_seconds(metrics.get("seconds"))),
  ]
  if workdir is not None:
    places = [("report", "report.html"), ("metrics", "metrics.json"), ("saved model", "export")]
    paths = [(name, pathlib.Path(workdir) / file) for name, file in places]
    rows += [(name, str(path), "") for name, path in paths if path.exists()]
  return "\n".join(f"{name:<15} {', '.join(filter(None, (value, more)))}" for name, value, more in rows if value)


def _percentiles(values):
  return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def _wilson(proportion, n):
  spread = _Z95**2 / n
  centre = (proportion + spread / 2) / (1 + spread)
  half = math.sqrt(spread * (proportion * (1 - proportion) + spread / 4)) / (1 + spread)
  return [max(0.0, centre - half), min(1.0, centre + half)]


def _figure(value):
  return "" if value is None else f"{value:.3f}"


def _with_interval(values, name):
  text, interval = _figure(values.get(name)), values.get(f"{name}_ci95")
  return f"{text} (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if text and interval else text


def _rungs(rungs):
  text = ", ".join(f"{name} {_figure(values.get('accuracy'))}" for name, values in (rungs or {}).items())
  return text and f"validation accuracy: {text}"


def _parity(parity):
  if not parity:
    return "", ""
  flips, number = parity.get("label_flips", 0), parity.get("num_examples", 0)
  return (
    f"a fresh process changed {flips} of {number:,} labels",
    f"probabilities by at most {parity.get('max_probability_difference', 0.0):.0e}",
  )


def _seconds(seconds):
  parts = {name: value for name, value in (seconds or {}).items() if isinstance(value, (int, float)) and value}
  text = ", ".join(f"{name} {value:.0f}" for name, value in parts.items())
  return (f"{sum(parts.values()):.0f} s", text) if parts else ("", "")
