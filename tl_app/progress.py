"""Progress of slow loops: a bar on a terminal, a log line every 20 seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

_SECONDS_ON_TERMINAL = 0.2
_SECONDS_IN_A_FILE = 20.0
_WIDTH = 30


def counted(items: Iterable[T], total: int, what: str) -> Iterator[T]:
  """Yields the items and reports on standard error how many of `total` are done.

  Args:
    items: any iterable.
    total: the number of items that is expected.
    what: what is counted, for instance "images decoded".
  """
  terminal = sys.stderr.isatty()
  start = printed = time.monotonic()
  for number, item in enumerate(items, start=1):
    yield item
    now = time.monotonic()
    if terminal and (now - printed >= _SECONDS_ON_TERMINAL or (number == total and printed > start)):
      printed = now
      done = _WIDTH * number // max(total, 1)
      bar = "#" * done + "." * (_WIDTH - done)
      end = "\n" if number == total else ""
      print(f"\r{what} [{bar}] {number:,} of {total:,}", end=end, file=sys.stderr, flush=True)
    elif not terminal and now - printed >= _SECONDS_IN_A_FILE:
      printed = now
      log.info("%s: %s of %s", what, f"{number:,}", f"{total:,}")


def verbosity() -> int:
  """Returns Keras' `verbose`: 1, a moving bar, on a terminal and in a notebook; 2, a line an epoch, elsewhere."""
  return 1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2
