"""Which test examples are behind a cell of a confusion matrix, within a limit for the whole page."""

import heapq
from collections.abc import Iterable, Mapping

# Examples of one cell, and of the whole page: thumbnails and texts must stay within its size.
MOST = 6
MOST_RIGHT = 3
MOST_OF_ALL = 240


def choose(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], list[Mapping[str, str]]]:
  """Returns {(label, prediction): rows}, of each cell the surest wrong answers, or the least sure right ones.

  With too many cells each has fewer, the wrong ones first: the first example of all cells, then the second of all.

  Args:
    rows: of predictions_test.csv, of a task with one class per example.
  """
  kept: dict[tuple[str, str], list] = {}
  for number, row in enumerate(rows):
    cell = row["label"], row["prediction"]
    wrong = cell[0] != cell[1]
    rank = float(row["score"]) if wrong else -float(row["score"])
    heap = kept.setdefault(cell, [])
    push = heapq.heappush if len(heap) < (MOST if wrong else MOST_RIGHT) else heapq.heappushpop
    push(heap, (rank, -number, row))
  ranked = {cell: sorted(heap, key=lambda entry: entry[:2], reverse=True) for cell, heap in kept.items()}
  return {cell: [row for *_, row in heap] for cell, heap in _limited(ranked).items()}


def _limited(ranked):
  """Returns the cells with at most `MOST_OF_ALL` entries together."""
  turns = [
    (place, cell[0] == cell[1], order, cell)
    for order, (cell, entries) in enumerate(ranked.items())
    for place in range(len(entries))
  ]
  # Wrong cells take their turns before the right ones.
  turns.sort(key=lambda turn: (turn[1], turn[0], turn[2]))
  limited: dict = {}
  for place, _, _, cell in turns[:MOST_OF_ALL]:
    limited.setdefault(cell, []).append(ranked[cell][place])
  return limited
