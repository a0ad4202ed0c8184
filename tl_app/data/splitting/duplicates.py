"""Which examples belong together: arrays of group numbers, joined, and pairs of hashes that differ in few bits."""

import numpy as np
import scipy.sparse

_CHUNKS = 4
_CHUNK_BITS = 16
# Pairs compared at a time: 16 MB of hashes.
_BLOCK = 1_000_000


def numbered(keys):
  """Returns int64 [n], the same number for equal keys (sequence of str), whatever their order."""
  numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
  return np.array([numbers[key] for key in keys], np.int64)


def connected(groups, pairs):
  """Returns int64 [n]: the groups (int [n]) joined wherever a pair of examples (int [m, 2]) belongs together."""
  n = len(groups)
  _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
  edges = np.concatenate([np.stack([np.arange(n), first[inverse]], axis=1), pairs])
  graph = scipy.sparse.coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
  return scipy.sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)


def joined(groups, others):
  """Returns int64 [n]: examples are together when either array (int [n]) has them together, or a chain of both."""
  _, first, inverse = np.unique(others, return_index=True, return_inverse=True)
  return connected(groups, np.stack([np.arange(len(others)), first[inverse]], axis=1))


def shared(groups, left, right):
  """Returns [(i, j)] of each example i of `left` (int [k]) whose group one of `right` has; j is the first of these."""
  first = {}
  for index in right:
    first.setdefault(groups[index], index)
  return [(index, first[groups[index]]) for index in left if groups[index] in first]


def close_pairs(hashes, distance):
  """Returns int64 [m, 2], the pairs i < j of `hashes` (uint64 [n]) that differ in at most `distance` bits, below 8.

  Multi-index hashing (Norouzi, Punjani and Fleet 2012): of four chunks of 16 bits one differs in at most distance // 4,
  so that only hashes with nearly equal chunks are compared, not all pairs.
  """
  if distance >= 2 * _CHUNKS:
    raise ValueError(f"distance {distance} is above {2 * _CHUNKS - 1}")
  flips = [0] + ([1 << bit for bit in range(_CHUNK_BITS)] if distance >= _CHUNKS else [])
  found = [np.zeros((0, 2), np.int64)]
  for chunk in range(_CHUNKS):
    keys = ((hashes >> np.uint64(chunk * _CHUNK_BITS)) & np.uint64((1 << _CHUNK_BITS) - 1)).astype(np.int64)
    for candidates in _candidates(keys, flips):
      left, right = candidates.T
      found.append(candidates[np.bitwise_count(hashes[left] ^ hashes[right]) <= distance])
  return np.unique(np.concatenate(found), axis=0)


def _candidates(keys, flips):
  """Yields int64 [.., 2] blocks of the pairs i < j whose keys differ by one of the `flips` (masks)."""
  order = np.argsort(keys, kind="stable")
  ordered = keys[order]
  for flip in flips:
    start = np.searchsorted(ordered, keys ^ flip, side="left")
    count = np.searchsorted(ordered, keys ^ flip, side="right") - start
    ends = np.cumsum(count)
    at = 0
    while at < len(keys):
      before = ends[at - 1] if at else 0
      to = max(at + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
      left = np.repeat(np.arange(at, to), count[at:to])
      within = np.arange(len(left)) - np.repeat(ends[at:to] - count[at:to] - before, count[at:to])
      right = order[np.repeat(start[at:to], count[at:to]) + within]
      ordered_pair = left < right
      yield np.stack([left[ordered_pair], right[ordered_pair]], axis=1)
      at = to
