"""How far something slow has come: a moving line for a person who watches, a line now and then for a file."""

import logging
import sys
import time

log = logging.getLogger(__name__)

_SECONDS_ON_SCREEN = 0.2
_SECONDS_IN_A_FILE = 20.0
_WIDTH = 30


def counted(items, total, what):
  """Yields the items and says on standard error how many of `total` have come; nothing of what is done at once."""
  watched = sys.stderr.isatty()
  start = said = time.monotonic()
  for number, item in enumerate(items, start=1):
    yield item
    now = time.monotonic()
    if watched and (now - said >= _SECONDS_ON_SCREEN or (number == total and said > start)):
      said = now
      done = _WIDTH * number // max(total, 1)
      bar = "#" * done + "." * (_WIDTH - done)
      print(
        f"\r{what} [{bar}] {number:,} of {total:,}", end="\n" if number == total else "", file=sys.stderr, flush=True
      )
    elif not watched and now - said >= _SECONDS_IN_A_FILE:
      said = now
      log.info("%s: %s of %s", what, f"{number:,}", f"{total:,}")
