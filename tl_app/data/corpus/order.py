"""The order of the examples of a corpus: shuffled anew in each pass, in memory that does not grow with the corpus."""

import functools

import numpy as np

from tl_app.data.pipeline import WINDOW

# Rounds of the Feistel network. Four make a pseudorandom permutation of a pseudorandom function (Luby & Rackoff 1988).
_ROUNDS = 4


def permuted(positions: np.ndarray, n: int, key: int) -> np.ndarray:
  """Returns where a pseudorandom permutation of range(n) puts positions, int64 of the same shape.

  It is a Feistel network over the next power of 4, walked until the value is below `n`, so nothing of size n is stored.

  Args:
    positions: int64 [k], each below `n`.
    n: number of elements.
    key: tells this permutation from others.
  """
  half = np.uint64(max(1, (max(1, n - 1).bit_length() + 1) // 2))
  mask = (np.uint64(1) << half) - np.uint64(1)
  keys = np.random.default_rng(key).integers(0, 2**63, _ROUNDS, dtype=np.uint64)

  def walk(values):
    left, right = values >> half, values & mask
    for round_key in keys:
      left, right = right, left ^ (mixed(right ^ round_key) & mask)
    return (left << half) | right

  values = walk(positions.astype(np.uint64))
  while (outside := values >= n).any():
    values[outside] = walk(values[outside])
  return values.astype(np.int64)


def mixed(values: np.ndarray) -> np.ndarray:
  """Returns 64 pseudorandom bits for each of `values`, uint64 (the last steps of SplitMix64)."""
  values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return values ^ (values >> np.uint64(31))


class Batches:
  """The batches of an endless stream over n examples: every example comes once in a pass.

  As in `pipeline.index_batches` the examples of a batch are alike in size where sizes are given, and a batch may hold
  the end of one pass and the start of the next.
  """

  def __init__(self, n: int, batch_size: int, seed: int, sizes=None):
    """Creates the order.

    Args:
      n: number of examples.
      batch_size: examples in a batch, at most `n`.
      seed: of the order.
      sizes: function, int64 [k] positions -> int [k] sizes of the examples; None if all are alike.
    """
    self._n, self._batch_size, self._seed, self._sizes = n, batch_size, seed, sizes
    self._window = max(1, min(WINDOW, n // batch_size)) if sizes else 1
    self._of_window = functools.lru_cache(maxsize=4)(self._make_window)

  def __call__(self, number: int) -> np.ndarray:
    """Returns the positions of the examples of a batch, int64 [batch_size]."""
    window, index = divmod(number, self._window)
    return self._of_window(window)[index]

  def _make_window(self, window):
    """Returns the batches of a window, int64 [window, batch_size]."""
    count = self._window * self._batch_size
    positions = np.arange(window * count, (window + 1) * count)
    passes, places = np.divmod(positions, self._n)
    members = np.concatenate(
      [permuted(places[passes == k], self._n, hash((self._seed, int(k))) & (2**63 - 1)) for k in np.unique(passes)]
    )
    if self._sizes is None:
      return members.reshape(1, -1)
    members = members[np.argsort(self._sizes(members), kind="stable")].reshape(self._window, -1)
    return members[np.random.default_rng([self._seed, window]).permutation(self._window)]
