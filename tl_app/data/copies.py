"""Augmented copies of training examples that are made once, so that their frozen features can be cached."""

import hashlib

from tl_app.data import modalities
from tl_app.data.examples import Inputs, strings


def make(examples, indices, augment, count):
  """Returns (inputs, hashes) of count * len(indices) copies, as `Examples` has them: all first copies, ..

  A copy depends on the content of its example, on which copy it is and on `augment`, not on the other examples.

  Args:
    examples: `Examples`.
    indices: int [n].
    augment: result of `Modality.augmentation`.
    count: copies of each.
  """
  modality, inputs = modalities.of(examples.modality), examples.inputs[indices]
  copies = [
    modality.augmented_copy(row, digest, augment, _number(digest, k))
    for k in range(count)
    for row, digest in zip(inputs.rows(), examples.hashes[indices])
  ]
  return Inputs.from_rows(inputs.modalities, (row for row, _ in copies)), strings(digest for _, digest in copies)


def _number(digest, k):
  """Returns what tells copy `k` of a content from others."""
  return int(hashlib.sha256(f"{digest}:{k}".encode()).hexdigest()[:15], 16)
