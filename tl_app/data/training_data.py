"""`TrainingData`: the examples of a run, their targets, and the rows of each split."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tl_app.data.examples import Examples, Inputs
from tl_app.data.splitting.splits import Splits


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """The examples of a run as arrays over rows: one row for each example, then one for each augmented copy.

  Attributes:
    examples: the `Examples`.
    split: the `Splits`; its indices are rows.
    inputs: `Inputs` of the rows, see `Examples.inputs`.
    hashes: object array [rows] of str, content hashes.
    targets: [rows, ..], see `Task.targets`; zeros for examples outside of every split.
    train_rows: int [1 + copies, training examples]: rows of each training example and of its augmented copies.
    augment: what `Modality.augmentation` returns for the training stream, or None.
    lengths: int32 [rows], tokens of each text, special ones included, nothing truncated; None for images.
  """

  examples: Examples
  split: Splits
  inputs: Inputs
  hashes: np.ndarray
  targets: np.ndarray
  train_rows: np.ndarray
  augment: Callable | None = None
  lengths: np.ndarray | None = None

  @property
  def train(self) -> np.ndarray:
    """Rows of the training examples, without copies, int [train]."""
    return self.split.train

  @property
  def validation(self) -> np.ndarray:
    """Rows of the validation examples, int [validation]."""
    return self.split.validation

  @property
  def test(self) -> np.ndarray:
    """Rows of the test examples, int [test]."""
    return self.split.test

  @property
  def used_rows(self) -> np.ndarray:
    """Rows of every example of a split, and of every copy, int [used]."""
    return np.concatenate([*self.train_rows, self.validation, self.test])

  def with_parts(self, train: np.ndarray, validation: np.ndarray) -> "TrainingData":
    """Returns the data with other training and validation examples, int rows, and without copies."""
    split = dataclasses.replace(self.split, train=train, validation=validation)
    return dataclasses.replace(self, split=split, train_rows=train[None])

  @property
  def train_targets(self) -> np.ndarray:
    """Targets of the training examples, [train, ..]."""
    return self.targets[self.train]

  @property
  def validation_targets(self) -> np.ndarray:
    """Targets of the validation examples, [validation, ..]."""
    return self.targets[self.validation]


def make(examples: Examples, split: Splits, targets: np.ndarray, augment=None, copies=None) -> TrainingData:
  """Returns the `TrainingData` of examples and their split.

  Args:
    examples: the `Examples`.
    split: the `Splits`.
    targets: [examples, ..], see `Task.targets`.
    augment: what `Modality.augmentation` returns, or None.
    copies: (inputs, hashes) of the augmented copies, see `data.copies.make`, or None.
  """
  copied_inputs, copied_hashes = copies or (examples.inputs[:0], examples.hashes[:0])
  copied_rows = len(examples) + np.arange(len(copied_inputs)).reshape(-1, len(split.train))
  return TrainingData(
    examples=examples,
    split=split,
    inputs=examples.inputs.joined(copied_inputs),
    hashes=np.concatenate([examples.hashes, copied_hashes]),
    targets=np.concatenate([targets, *(targets[split.train] for _ in copied_rows)]),
    train_rows=np.concatenate([split.train[None], copied_rows]),
    augment=augment,
  )


def targets_of(task, examples: Examples, split: Splits) -> np.ndarray:
  """Returns the targets [examples, ..] of a `Task`; zeros for examples outside of every split."""
  used = np.concatenate([split.train, split.validation, split.test])
  found = task.codec.targets(examples.labels[used])
  targets = np.zeros((len(examples), *found.shape[1:]), found.dtype)
  targets[used] = found
  return targets
