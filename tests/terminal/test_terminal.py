"""What people see: lines that fit a terminal, colours, a bar with the time left; plain lines elsewhere."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tl_app import terminal
from tl_app.terminal import progress

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# A bar, with a long line in the middle of it.
SHOW = """
import logging, time
from tl_app import terminal
from tl_app.terminal import progress
terminal.escape_names()
logging.basicConfig(format="%(message)s", handlers=[terminal.Handler()], level=20)
with progress.bar("fine_tune", 6) as bar:
  for step in range(6):
    time.sleep(0.12)
    bar.advance(1, f"epoch {step} of 6")
    if step == 3:
      logging.info("warning  caf\\xe9: " + 12 * "a line that is wrapped between words " + "/a/path/without/a/space")
terminal.print_results("accuracy          " + 12 * "many words ", 18)
"""


def on_a_terminal(columns, **environment):
  """Returns what a process writes to a terminal of so many columns."""
  main, other = pty.openpty()
  fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
  kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
  environment = kept | {"TERM": "xterm"} | environment
  process = subprocess.Popen([sys.executable, "-c", SHOW], stdin=other, stdout=other, stderr=other, env=environment)
  os.close(other)
  written = b""
  try:
    while part := os.read(main, 65536):
      written += part
  except OSError:
    # The other end is closed.
    pass
  os.close(main)
  assert process.wait() == 0
  return written.decode("utf-8")


def printable(text):
  """Returns the lines without the codes for colours, the cursor and erased lines."""
  bare = CODES.sub("", text)
  return [line.rpartition("\r")[2] for line in bare.replace("\r\n", "\n").split("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_lines_and_bars_fit_the_terminal(columns):
  shown = on_a_terminal(columns)
  lines = printable(shown)
  assert max(map(len, lines)) <= columns
  assert "s left" in shown and "total 0:0" in shown and "epoch 5 of 6" in shown and "━" in shown
  assert any(line.endswith("/a/path/without/a/space") for line in lines), "a path is not cut"
  result = next(index for index, line in enumerate(lines) if line.startswith("accuracy"))
  assert not lines[result - 1] and lines[result + 1].startswith(18 * " ")
  assert "\x1b[33mwarning\x1b[0m" in shown


@pytest.mark.slow
def test_a_terminal_without_colours_or_letters():
  shown = on_a_terminal(80, NO_COLOR="1", PYTHONIOENCODING="ascii")
  assert "\x1b[33m" not in shown and "\x1b[38" not in shown
  assert max(map(len, printable(shown))) <= 80
  assert "caf\\xe9" in shown and "━" not in shown and shown.isascii()
  assert "left" not in on_a_terminal(80, TERM="dumb")


def test_a_file_gets_plain_lines_in_one_piece(caplog, capsys, monkeypatch):
  line = "serious  " + 60 * "many words "
  assert terminal.fitted(line, sys.stderr) == line
  terminal.print_results("one\ntwo")
  assert capsys.readouterr() == ("one\ntwo\n", "")
  caplog.set_level(logging.INFO)
  assert list(progress.counted("abc", 3, "reading")) == ["a", "b", "c"]
  assert not caplog.messages, "it took no seconds"
  monkeypatch.setattr(progress._Lines, "interval", -1)
  assert list(progress.counted("abc", 3, "reading")) == ["a", "b", "c"]
  assert caplog.messages == ["reading: 1 of 3", "reading: 3 of 3"], "the next line comes after seconds, or at the end"
  caplog.clear()
  assert len(list(progress.counted("abc", 4, "reading"))) == 3
  assert caplog.messages == ["reading: 1 of 4"], "it ended early"
  caplog.clear()
  with progress.bar("features", 2, last_line=False) as bar:
    bar.advance()
    bar.advance()
  assert caplog.messages == ["features: 1 of 2"], "another line tells the end"


def test_the_time_left_is_that_of_the_steps_after_the_first(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  bar = progress.Bar("steps", 10)
  for now[0] in (60.0, 62.0, 64.0):
    bar.advance()
  assert bar.seconds_left() == 14.0 and progress.about(14.0) == "about 15 s"
  assert progress._left(bar) == "about 15 s left"
  bar.advance(7)
  assert progress._left(bar) == ""
  assert [progress.about(seconds) for seconds in (0.2, 7.4, 89, 700, 9000)] == [
    *("about 1 s", "about 7 s", "about 90 s", "about 12 min", "about 2.5 h")
  ]


def test_only_what_is_asked_for_counts_examples():
  progress.examples_done(5)
  with progress.examples("features", 8) as bar:
    progress.examples_done(5)
    with progress.uncounted():
      progress.examples_done(1)
    progress.examples_done(2)
  assert bar.done == 7


def test_lines_of_a_notebook_end_between_words(capsys):
  handler = terminal.NotebookHandler()
  handler.handle(logging.makeLogRecord({"msg": "phase " + "identical " * 20}))
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3 and max(map(len, lines)) <= 100 and {line.split()[-1] for line in lines} == {"identical"}
