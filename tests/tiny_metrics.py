"""Logits that are right about as often as asked, and their metrics."""

import numpy as np

from tl_app.tasks import SINGLE_LABEL


def confused(num_examples, num_classes, accuracy, seed=0):
  """Returns float32 logits and labels: about `accuracy` of the rows are right."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, num_classes, num_examples)
  answers = np.where(rng.random(num_examples) < accuracy, labels, rng.integers(0, num_classes, num_examples))
  logits = rng.normal(size=(num_examples, num_classes)) + 8 * np.eye(num_classes)[answers]
  return logits.astype(np.float32), labels


def measure(logits, labels, class_names):
  """Returns the metrics of a task of one class an example."""
  return SINGLE_LABEL.with_codec(names=tuple(class_names)).metrics.compute_metrics(logits, labels)


def names(num_classes):
  """Returns names of classes."""
  return [f"class {i}" for i in range(num_classes)]
