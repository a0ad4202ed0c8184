"""The statistics behind the metrics: losses, intervals and paired tests of two models."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.sparse
import scipy.stats

RESAMPLES = 2000

# With fewer right or wrong answers than this the resamples are too coarse for an interval.
FEW = 10
MACRO_F1_NOTE = "macro F1 is the mean over the classes in the test labels or the answers"
_Z95 = 1.959963984540054
# Smaller shares of a sum of squares are rounding.
TINY = 1e-12


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Returns the float64 log-probabilities [n, classes] of finite `logits` [n, classes]; no overflow, no log of zero."""
  shifted = np.asarray(logits, dtype=np.float64)
  shifted = shifted - shifted.max(axis=1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
  """Returns the float64 probabilities [n, classes] of finite `logits` [n, classes]; every row sums to 1."""
  return np.exp(log_softmax(logits))


def cross_entropy(logits: np.ndarray, label_indices: np.ndarray) -> float:
  """Returns the mean cross-entropy, in nats, of `logits` [n, classes] with the true classes, int [n]."""
  # + 0.0 turns the -0.0 of a perfect model into 0.0.
  return float(-log_softmax(logits)[np.arange(len(label_indices)), label_indices].mean() + 0.0)


def accuracy_interval(num_correct: int, num_examples: int, seed: int = 0) -> list[float]:
  """Returns the 95 % interval [low, high] of an accuracy.

  The percentile bootstrap with `RESAMPLES` resamples. The number of right answers in a resample of n examples is
  binomial(n, accuracy), so it is sampled directly. With fewer than ten right or ten wrong answers the percentiles
  say too little (a model without an error would get [1, 1]), and Wilson's score interval is returned
  (Wilson 1927; scipy.stats.binomtest(..).proportion_ci(method="wilson") gives the same).
  """
  accuracy = num_correct / num_examples
  if min(num_correct, num_examples - num_correct) < FEW:
    return wilson(accuracy, num_examples)
  resamples = np.random.default_rng(seed).binomial(num_examples, accuracy, size=RESAMPLES)
  return percentiles(resamples / num_examples)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> scipy.sparse.csr_array:
  """Returns the counts, int [classes, classes], with a row for each true class and a column for each predicted one.

  The matrix is sparse: with thousands of classes nearly all of its cells are 0.

  Args:
    labels: int [n], in [0, num_classes).
    predictions: int [n], likewise.
    num_classes: number of classes.
  """
  ones = np.ones(len(labels), np.int64)
  matrix = scipy.sparse.coo_array((ones, (labels, predictions)), shape=(num_classes, num_classes)).tocsr()
  matrix.sort_indices()
  return matrix


def matthews(confusion: scipy.sparse.csr_array) -> float:
  """Returns the correlation of Matthews, -1 to 1, for several classes (Gorodkin 2004); 0 where it is 0/0."""
  support, predicted = (confusion.sum(axis=axis).astype(np.float64) for axis in (1, 0))
  total = support.sum()
  spread = (total**2 - support @ support) * (total**2 - predicted @ predicted)
  return float((confusion.trace() * total - support @ predicted) / math.sqrt(spread)) if spread else 0.0


def macro_f1_interval(confusion: np.ndarray | scipy.sparse.csr_array, seed: int = 0) -> list[float] | None:
  """Returns the 95 % percentile bootstrap interval [low, high] of the macro F1 of a confusion matrix, or None.

  Examples are resampled within each true class, as for a stratified split: a rare class keeps its support in every
  resample. A row of the matrix is then multinomial. With fewer than ten right or ten wrong answers the resamples
  hardly differ, and no interval is given.
  """
  confusion = scipy.sparse.csr_array(confusion)
  support = confusion.sum(axis=1)
  num_correct = confusion.trace()
  if min(num_correct, support.sum() - num_correct) < FEW:
    return None
  rng = np.random.default_rng(seed)
  hits = np.zeros((RESAMPLES, len(support)), dtype=np.int32)
  predicted = np.zeros_like(hits)
  for row in np.flatnonzero(support):
    cells = slice(confusion.indptr[row], confusion.indptr[row + 1])
    columns = confusion.indices[cells]
    draws = rng.multinomial(support[row], confusion.data[cells] / support[row], size=RESAMPLES)
    predicted[:, columns] += draws.astype(np.int32)
    hits[:, row] = draws[:, columns == row].sum(axis=1)
  # F1 = 2 TP / (2 TP + FP + FN), and the sum below it is predictions plus support.
  return percentiles(macro_f1(np.concatenate([hits, predicted, np.broadcast_to(support, hits.shape)], axis=1)))


def majority_accuracy(train_labels: Sequence, test_labels: Sequence) -> float:
  """Returns the accuracy on `test_labels` [m] of always answering the most frequent of `train_labels` [n].

  Of several equally frequent classes the first in sorted order answers.
  """
  names, counts = np.unique(np.asarray(train_labels), return_counts=True)
  return float((np.asarray(test_labels) == names[counts.argmax()]).mean())


def bootstrap(columns: np.ndarray, statistic: Callable, seed: int = 0) -> list[float]:
  """Returns the 95 % percentile bootstrap interval [low, high] of a metric, over `RESAMPLES` resamples of the examples.

  Args:
    columns: float [n, k]; the metric depends on the examples through their sums only.
    statistic: function, sums [.., k] -> metric [..].
    seed: seed of the resamples.
  """
  n, rng, found = len(columns), np.random.default_rng(seed), []
  at_once = max(1, 2**23 // n)
  for start in range(0, RESAMPLES, at_once):
    counts = rng.multinomial(n, np.full(n, 1 / n), size=min(at_once, RESAMPLES - start))
    found.append(statistic(counts.astype(columns.dtype) @ columns))
  return percentiles(np.concatenate(found))


def randomisation(pairs: Sequence[tuple[np.ndarray, np.ndarray, Callable]], seed: int = 0) -> float:
  """Returns the two-sided p-value of the paired randomisation test (Noreen 1989) of two models on the same examples.

  In each of `RESAMPLES` rounds the answers of the two models to an example are swapped with probability one half. The
  mean of the metric over the pairs is compared.

  Args:
    pairs: [(first, second, statistic)], one for each set of examples: float [n, k] of the two models, and a function,
      sums [.., k] -> metric [..]; the metric depends on the examples through their sums only.
    seed: seed of the swaps.
  """
  rng = np.random.default_rng(seed)
  difference, rounds = 0.0, np.zeros(RESAMPLES)
  for first, second, statistic in pairs:
    difference += statistic(first.sum(axis=0)) - statistic(second.sum(axis=0))
    at_once = max(1, 2**23 // len(first))
    for start in range(0, RESAMPLES, at_once):
      swaps = rng.integers(0, 2, (min(at_once, RESAMPLES - start), len(first))).astype(first.dtype)
      moved = swaps @ (second - first)
      one, two = statistic(first.sum(axis=0) + moved), statistic(second.sum(axis=0) - moved)
      rounds[start : start + len(swaps)] += one - two
  as_large = int(np.sum(np.abs(rounds) >= abs(difference) - 1e-12))
  return (as_large + 1) / (RESAMPLES + 1)


def class_counts(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Returns float32 [n, 3 classes]: of each example its hits, its answers, and its truth, [n, classes] of 0 and 1."""
  return np.concatenate([answers * targets, answers, targets], axis=1).astype(np.float32)


def macro_f1(sums: np.ndarray) -> np.ndarray:
  """Returns the macro F1 [..] of sums of `class_counts` [.., 3 classes].

  It is the mean over the classes that occur in the truth or in the answers, as of scikit-learn's `f1_score`; 0 where
  none occurs.
  """
  hits, predicted, support = np.split(sums, 3, axis=-1)
  occurs = predicted + support > 0
  return (2 * hits / np.maximum(predicted + support, 1)).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)


def classes_without_examples(metrics: Mapping) -> list[str]:
  """Returns the names of the classes that have no example in the split of `Metrics.compute_metrics`."""
  return [name for name, values in metrics.get("per_class", {}).items() if not values.get("support", 1)]


def mcnemar(right: np.ndarray, other_right: np.ndarray) -> float:
  """Returns the p-value of McNemar's exact two-sided test; bool [n] each: which examples the two models get right."""
  only_first, only_second = int(np.sum(right & ~other_right)), int(np.sum(~right & other_right))
  if only_first + only_second == 0:
    return 1.0
  return float(scipy.stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def least_difference(count: int, significance: float) -> float | None:
  """Returns the smallest difference of two accuracies on `count` examples that McNemar's test can call significant.

  The difference is smallest where one model is right on every example on which only one of the two is. None if even a
  difference of 1 has a larger p-value than `significance`.
  """
  for number in range(1, count + 1):
    if mcnemar(np.ones(number, bool), np.zeros(number, bool)) <= significance:
      return number / count
  return None


def class_parity(probabilities: np.ndarray, expected: np.ndarray, flips: np.ndarray) -> dict:
  """Returns how the probabilities of an export differ from those of the evaluation, [n, classes] both.

  Args:
    probabilities: of the export.
    expected: of the evaluation.
    flips: bool [n]: the label is another one, and it is no tie.
  """
  difference = np.abs(probabilities - expected).max()
  return {
    "num_examples": len(expected),
    "label_flips": int(flips.sum()),
    "max_probability_difference": float(difference) if np.isfinite(difference) else 1.0,
  }


def percentiles(values: np.ndarray) -> list[float]:
  """Returns [2.5 %, 97.5 %] of `values`, as floats."""
  return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def wilson(proportion: float, n: int) -> list[float]:
  """Returns Wilson's 95 % score interval [low, high] of a proportion that was measured on `n` examples."""
  spread = _Z95**2 / n
  centre = (proportion + spread / 2) / (1 + spread)
  half = math.sqrt(spread * (proportion * (1 - proportion) + spread / 4)) / (1 + spread)
  return [max(0.0, centre - half), min(1.0, centre + half)]


def ranks(values: np.ndarray) -> np.ndarray:
  """Returns the ranks of each column, float [n, columns], as shares of n around 0; equal values share a rank."""
  found = scipy.stats.rankdata(values, axis=0)
  return found / len(found) - found.mean(axis=0) / len(found)


def correlation(n, one, one_squared, two, two_squared, product):
  """Returns Pearson's correlation from n and the sums of two variables, arrays of one shape; 0 with a constant."""
  # What is left of the variance of a constant is rounding.
  first, second = one_squared - one**2 / n, two_squared - two**2 / n
  varies = (first > TINY * one_squared) & (second > TINY * two_squared)
  return np.where(varies, (product - one * two / n) / np.sqrt(np.where(varies, first * second, 1.0)), 0.0)
