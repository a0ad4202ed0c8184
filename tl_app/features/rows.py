"""`FeatureRows`: frozen features of examples, one row each, or one for each word that is read."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class FeatureRows:
  """Features of n examples; `features[indices]` are the rows, float32 [rows, width], of some of them.

  Attributes:
    rows: float32 [rows, width].
    starts, counts: int64 [n], the first row of each example and their number; None where each has one.
    positions: of the network's outputs for an example that has several.
  """

  rows: np.ndarray
  starts: np.ndarray | None = None
  counts: np.ndarray | None = None
  positions: int = 0

  def __getitem__(self, indices):
    if self.counts is None:
      return self.rows[indices]
    counts = self.counts[indices]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return self.rows[np.repeat(self.starts[indices], counts) + within]

  def targets(self, targets, indices):
    """Returns those of the rows of the examples at `indices`, [rows, ..], of the targets [n, ..] of all examples."""
    targets = targets[indices]
    return targets if self.counts is None else targets[self._read(indices, targets.shape[1])]

  def by_example(self, outputs, indices):
    """Returns float [len(indices), ..] of outputs [rows, k] for the rows of the examples at `indices`.

    Where they have several it is [len(indices), positions, k], zeros at no word, as the network gives it.
    """
    if self.counts is None:
      return outputs
    arranged = np.zeros((len(indices), self.positions, outputs.shape[-1]), outputs.dtype)
    arranged[self._read(indices, self.positions)] = outputs
    return arranged

  def rows_of(self, examples, indices):
    """Returns about how many rows `examples` of those at `indices` have, a multiple of `examples`."""
    if self.counts is None:
      return examples
    return examples * max(1, int(self.counts[indices].sum()) // len(indices))

  def _read(self, indices, positions):
    """Returns bool [len(indices), positions]: where a word was read."""
    return np.arange(positions) < self.counts[indices][:, None]
