"""Progress of slow loops: a bar on a terminal and in a notebook, a line now and then elsewhere.

All show the time that is left. The bar of a terminal is rich's: it fits the width of the terminal, and lines that are
printed meanwhile stay above it. Keras' own bar is wider than a narrow terminal and then leaves a line for each step.
"""

import contextlib
import html
import importlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tl_app import terminal

T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds between two updates of a bar, and until the first and between the first two lines in a file. Later lines are
# further apart: a loop of hours has no more than a few hundred.
_BAR_SECONDS = 0.1
_FIRST_LINE_SECONDS = 5.0
_LINE_SECONDS = 20.0
_LINE_SHARE = 0.02

_running: list["Bar"] = []
_of_examples: list["Bar"] = []


def about(seconds: float) -> str:
  """Returns an estimated time in words, like "about 40 s", "about 12 min" or "about 2.5 h"."""
  if seconds < 10:
    return f"about {max(1, round(seconds))} s"
  if seconds < 90:
    return f"about {5 * round(seconds / 5)} s"
  return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def show_none(worker: int) -> None:
  """Shows no progress in this process, which is one of several workers; see `terminal.speak_as_worker`."""
  terminal.speak_as_worker(worker)


class Bar:
  """How far a loop is.

  Attributes:
    what: what is counted, for instance "comparing images".
    total: the number that is expected.
    done: the number so far.
    last_line: whether a file that has got a line of the bar gets one at the end; False where another line tells it.
  """

  def __init__(self, what: str, total: int, last_line: bool = True):
    self.what, self.total, self.done, self.last_line = what, total, 0, last_line
    self._detail, self._first, self._shown, self._display = "", None, time.monotonic(), _Display(self)

  def advance(self, count: int = 1, detail: str = "") -> None:
    """Counts `count` more; `detail` replaces "n of m" beside the bar."""
    now = time.monotonic()
    self.done, self._detail = min(self.total, self.done + count), detail
    # The first step is slower than the others: it compiles.
    self._first = self._first or (now, self.done)
    if now - self._shown >= self._display.interval:
      self._shown = now
      self._display.update()

  def seconds_left(self) -> float | None:
    """Returns the seconds that the rest takes at the speed after the first step, or None before there are two."""
    seconds, done = (time.monotonic() - self._first[0], self.done - self._first[1]) if self._first else (0.0, 0)
    return seconds / done * (self.total - self.done) if done > 0 else None

  @property
  def detail(self) -> str:
    """The number so far in words."""
    return self._detail or f"{self.done:,} of {self.total:,}"

  @contextlib.contextmanager
  def shown(self) -> Iterator["Bar"]:
    """Shows the bar while the block runs; not for a single thing, and not inside the block of another bar."""
    self._shown = time.monotonic()
    self._display = _Display(self) if _running or self.total < 2 else _display(self)
    _running.append(self)
    try:
      with self._display:
        yield self
    finally:
      self._display = _Display(self)
      _running.remove(self)


def bar(what: str, total: int, last_line: bool = True) -> contextlib.AbstractContextManager[Bar]:
  """Returns a context that shows a `Bar`, see there, and yields it.

  Example:
    with progress.bar("resizing", len(images)) as shown:
      for image in images:
        ..
        shown.advance()
  """
  return Bar(what, total, last_line).shown()


@contextlib.contextmanager
def examples(what: str, total: int, last_line: bool = True) -> Iterator[Bar]:
  """Shows a bar of the examples that networks answer inside the block, see `example_done`."""
  with bar(what, total, last_line) as shown:
    _of_examples.append(shown)
    try:
      yield shown
    finally:
      _of_examples.remove(shown)


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
  """Inside the block the modules below `name` print warnings only: a loop over trainings has one line for each."""
  logger = logging.getLogger(name)
  before = logger.level
  logger.setLevel(logging.WARNING)
  try:
    yield
  finally:
    logger.setLevel(before)


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
  """Counts no examples inside the block."""
  held = _of_examples[:]
  _of_examples.clear()
  try:
    yield
  finally:
    _of_examples[:] = held


def examples_done(count: int) -> None:
  """Counts examples that a network has answered, if an `examples` block is open."""
  if _of_examples:
    _of_examples[-1].advance(count)


def counted(items: Iterable[T], total: int, what: str) -> Iterator[T]:
  """Yields the items and shows how many of `total` are done.

  Args:
    items: any iterable.
    total: the number of items that is expected.
    what: what is counted, for instance "comparing images".
  """
  with bar(what, total) as shown:
    for item in items:
      yield item
      shown.advance()


def _display(shown):
  if terminal.speaker():
    return _Display(shown)
  if terminal.is_terminal(sys.stderr):
    return _Terminal(shown)
  return _Notebook(shown) if terminal.in_notebook() else _Lines(shown)


def _left(shown):
  seconds = shown.seconds_left()
  return "" if seconds is None or shown.done == shown.total else f"{about(seconds)} left"


class _Display:
  """Shows nothing; the base of what shows a `Bar`."""

  interval = float("inf")

  def __init__(self, shown):
    self._bar = shown

  def __enter__(self):
    return self

  def __exit__(self, *error):
    pass

  def update(self):
    """Shows the bar as it is now."""


class _Lines(_Display):
  """A line after a few seconds, then ever further apart, and one at the end if there was one before."""

  interval = _FIRST_LINE_SECONDS

  def __init__(self, shown):
    super().__init__(shown)
    self._printed = False

  def __exit__(self, *error):
    if self._printed and self._bar.last_line and self._bar.done == self._bar.total:
      log.info("%s: %s", self._bar.what, self._bar.detail)

  def update(self):
    self.interval = max(_LINE_SECONDS, _LINE_SHARE * terminal.elapsed())
    if self._bar.done < self._bar.total:
      self._printed = True
      log.info("%s: %s", self._bar.what, ", ".join(filter(None, (self._bar.detail, _left(self._bar)))))


class _Terminal(_Display):
  """A bar of rich on standard error."""

  interval = _BAR_SECONDS

  def __init__(self, shown):
    super().__init__(shown)
    import rich.console
    import rich.progress
    import rich.table
    import rich.text

    class Words(rich.progress.ProgressColumn):
      """Words that change."""

      def __init__(self, words):
        super().__init__(rich.table.Column(no_wrap=True))
        self._words = words

      def render(self, task):
        return rich.text.Text(self._words(), no_wrap=True)

    self._progress = rich.progress.Progress(
      Words(lambda: shown.what),
      rich.progress.BarColumn(None, table_column=rich.table.Column(ratio=1)),
      Words(lambda: shown.detail),
      Words(lambda: _left(shown)),
      Words(lambda: f"total {_clock(terminal.elapsed())}"),
      console=rich.console.Console(file=sys.stderr, highlight=False),
      refresh_per_second=4,
      transient=True,
      expand=True,
    )
    self._task = self._progress.add_task(shown.what, total=max(shown.total, 1))

  def __enter__(self):
    self._progress.start()
    return self

  def __exit__(self, *error):
    self._progress.stop()

  def update(self):
    self._progress.update(self._task, completed=self._bar.done)


class _Notebook(_Display):
  """A bar of HTML, which is replaced in place."""

  interval = 0.5

  def __enter__(self):
    self._ipython = importlib.import_module("IPython.display")
    self._handle = self._ipython.display(self._html(), display_id=True)
    return self

  def __exit__(self, *error):
    self._handle.update(self._ipython.HTML(""))

  def update(self):
    self._handle.update(self._html())

  def _html(self):
    words = (self._bar.detail, _left(self._bar), f"total {_clock(terminal.elapsed())}")
    return self._ipython.HTML(
      f"{html.escape(self._bar.what)} <progress value='{self._bar.done}' max='{max(self._bar.total, 1)}'></progress> "
      + html.escape(", ".join(filter(None, words)))
    )


def _clock(seconds):
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
