"""Which classes were taken for which, from the metrics of a test split."""

from collections.abc import Mapping

import numpy as np

# A larger matrix has no readable cells.
MAX_MATRIX_CLASSES = 40


def matrix(test: Mapping) -> tuple[list[str], np.ndarray]:
  """Returns (names of the classes, int64 [classes, classes], a row per true class); ([], [0, 0]) without a matrix.

  Args:
    test: "test" of metrics.json.
  """
  names = list(test.get("per_class", {}))
  counts = np.array(test.get("confusion_matrix", []), dtype=np.int64)
  if counts.shape != (len(names), len(names)):
    return [], np.zeros((0, 0), dtype=np.int64)
  return names, counts


def shares(counts: np.ndarray) -> np.ndarray:
  """Returns each cell of a matrix as a share of its row, float64 [classes, classes]."""
  return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def most_frequent(test: Mapping) -> list[dict]:
  """Returns every confusion, most frequent first: {"label", "prediction", "count", "share" of the label's examples}.

  Args:
    test: "test" of metrics.json.
  """
  names, rows, columns, counts = _cells(test)
  support = np.bincount(rows, weights=counts, minlength=len(names))
  order = [cell for cell in np.argsort(-counts, kind="stable") if rows[cell] != columns[cell]]
  return [
    {
      "label": names[rows[cell]],
      "prediction": names[columns[cell]],
      "count": int(counts[cell]),
      "share": counts[cell] / support[rows[cell]],
    }
    for cell in order
  ]


def readable_matrix(test: Mapping) -> tuple[list[str], np.ndarray]:
  """Returns `matrix`, of many classes only the `MAX_MATRIX_CLASSES` with the most wrong answers, in the order of all.

  Args:
    test: "test" of metrics.json. That of thousands of classes holds only the cells that are not zero.
  """
  names, rows, columns, counts = _cells(test)
  wrong = np.where(rows == columns, 0, counts)
  errors = np.bincount(rows, wrong, len(names)) + np.bincount(columns, wrong, len(names))
  chosen = np.sort(np.argsort(-errors, kind="stable")[:MAX_MATRIX_CLASSES])
  place = np.full(len(names), -1)
  place[chosen] = np.arange(len(chosen))
  shown = (place[rows] >= 0) & (place[columns] >= 0)
  cells = np.zeros((len(chosen), len(chosen)), dtype=np.int64)
  np.add.at(cells, (place[rows[shown]], place[columns[shown]]), counts[shown])
  return [names[i] for i in chosen], cells


def _cells(test):
  """Returns (names, rows, columns, counts) of the cells of the matrix that are not zero."""
  names, counts = matrix(test)
  if names:
    rows, columns = np.nonzero(counts)
    return names, rows, columns, counts[rows, columns]
  names = list(test.get("per_class", {}))
  return names, *np.array(test.get("confusion_cells") or np.zeros((0, 3)), dtype=np.int64).T
