"""Changed copies of training examples that are made once, so that what a frozen network gives for them can be kept."""

import hashlib

from tl_app.data.examples import Changed, content_hash, strings, texts_of


def make(examples, indices, augment, count):
  """Returns (inputs, hashes), object arrays [count * len(indices)], as `Examples` has them: all first copies, ..

  A copy depends on the content of its example, on which copy it is and on `augment`, not on the other examples.

  Args:
    examples: `Examples`.
    indices: int [n].
    augment: what `augmentation.make` gives.
    count: copies of each.
  """
  made = [_copy(examples, i, augment, k) for k in range(count) for i in indices]
  return strings(value for value, _ in made), strings(digest for _, digest in made)


def _copy(examples, i, augment, k):
  value, digest = examples.inputs[i], examples.hashes[i]
  number = int(hashlib.sha256(f"{digest}:{k}".encode()).hexdigest()[:15], 16)
  if examples.modality == "text":
    value = augment.copy(value, number)
    return value, content_hash([text.encode() for text in texts_of(value)])
  return Changed(value, augment, number), content_hash([digest.encode(), augment.identity.encode(), b"%d" % number])
