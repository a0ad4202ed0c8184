"""Augmented copies of training examples that are made once, so that their frozen features can be cached."""

import hashlib

from tl_app.data import modalities
from tl_app.data.examples import strings


def make(examples, indices, augment, count):
  """Returns (inputs, hashes), object arrays [count * len(indices)], as `Examples` has them: all first copies, ..

  A copy depends on the content of its example, on which copy it is and on `augment`, not on the other examples.

  Args:
    examples: `Examples`.
    indices: int [n].
    augment: result of `Modality.augmentation`.
    count: copies of each.
  """
  made = [_copy(examples, i, augment, k) for k in range(count) for i in indices]
  return strings(value for value, _ in made), strings(digest for _, digest in made)


def _copy(examples, i, augment, k):
  digest = examples.hashes[i]
  number = int(hashlib.sha256(f"{digest}:{k}".encode()).hexdigest()[:15], 16)
  return modalities.of(examples.modality).augmented_copy(examples.inputs[i], digest, augment, number)
