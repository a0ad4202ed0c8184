"""`FeatureRows`: frozen features of examples, one row per example, or one row per word."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class FeatureRows:
  """Features of n examples. `features[indices]` returns the rows of some examples, float32 [rows, width].

  Attributes:
    rows: float32 [rows, width].
    starts: int64 [n], first row of each example; None if each example has one row.
    counts: int64 [n], number of rows of each example; None if each example has one row.
    positions: number of output positions of the network for an example with several rows.
  """

  rows: np.ndarray
  starts: np.ndarray | None = None
  counts: np.ndarray | None = None
  positions: int = 0

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    if self.counts is None:
      return self.rows[indices]
    counts = self.counts[indices]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return self.rows[np.repeat(self.starts[indices], counts) + within]

  def targets(self, targets: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns the targets of the rows of some examples, [rows, ..].

    Args:
      targets: [n, ..], targets of all examples.
      indices: int [k], the examples.
    """
    targets = targets[indices]
    return targets if self.counts is None else targets[self._read(indices, targets.shape[1])]

  def by_example(self, outputs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns outputs for rows in the shape in which the network returns them for examples.

    Args:
      outputs: float [rows, k], outputs for the rows of the examples.
      indices: int [n], the examples.

    Returns:
      float [n, k], or [n, positions, k] with zeros after the last word if the examples have several rows.
    """
    if self.counts is None:
      return outputs
    arranged = np.zeros((len(indices), self.positions, outputs.shape[-1]), outputs.dtype)
    arranged[self._read(indices, self.positions)] = outputs
    return arranged

  def rows_of(self, num_examples: int, indices: np.ndarray) -> int:
    """Returns about how many rows `num_examples` of the examples `indices` have, a multiple of `num_examples`."""
    if self.counts is None:
      return num_examples
    return num_examples * max(1, int(self.counts[indices].sum()) // len(indices))

  def _read(self, indices, positions):
    """Returns bool [len(indices), positions]: whether a position belongs to a word."""
    return np.arange(positions) < self.counts[indices][:, None]
