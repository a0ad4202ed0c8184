"""The request to end a run, by a signal: acted on at once, or at the end of a training step.

Entry points install `request` as their handler of signals. Without it (in a notebook) a `KeyboardInterrupt` comes from
Python itself, and nothing here has an effect.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

# Seconds until an interruption that had no effect is repeated: Python drops exceptions raised inside a destructor, and
# TensorFlow has many destructors.
AGAIN = 10
# Seconds that a training step may take to end. Clusters kill a process about 30 s after SIGTERM.
STEP_SECONDS = 20
# Programs that start others may send a signal twice.
TWICE_SECONDS = 1.0


class _State:
  number: int = 0
  time: float = 0.0
  waits: bool = False


_state = _State()


def request(number: int, frame: object = None) -> None:
  """Handles a signal: raises `KeyboardInterrupt`, or notes it if the block of `deferred` is running.

  A second signal ends the process at once.

  Args:
    number: of the signal.
    frame: what Python gives a handler.
  """
  now = time.monotonic()
  if number != signal.SIGALRM:
    if _state.number:
      if now - _state.time < TWICE_SECONDS:
        return
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)
    _state.number, _state.time = number, now
  signal.alarm(STEP_SECONDS if _state.waits and number != signal.SIGALRM else AGAIN)
  if number == signal.SIGALRM or not _state.waits:
    raise KeyboardInterrupt


def requested() -> bool:
  """Returns whether a signal has asked for the end."""
  return bool(_state.number)


def check() -> None:
  """Raises `KeyboardInterrupt` if a signal has asked for the end."""
  if _state.number:
    raise KeyboardInterrupt


def exit_code() -> int:
  """Returns the exit code of an interrupted process: 128 and the number of the signal."""
  return 128 + (_state.number or signal.SIGINT)


def acted_on() -> None:
  """Stops the repetitions: what was asked for is being done."""
  if _state.number:
    signal.alarm(0)


@contextlib.contextmanager
def deferred(waits: bool = True) -> Iterator[None]:
  """Inside the block a signal is noted only, and the block calls `check`; with `waits=False` it interrupts again."""
  before, _state.waits = _state.waits, waits
  try:
    yield
  finally:
    _state.waits = before


@contextlib.contextmanager
def at_once(save: Callable[[], object]) -> Iterator[None]:
  """Inside the block, which is in one of `deferred`, a signal interrupts at once, and `save` is called then."""
  try:
    with deferred(waits=False):
      check()
      yield
  except KeyboardInterrupt:
    save()
    raise
