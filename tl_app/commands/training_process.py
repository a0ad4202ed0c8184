"""Trainings in new processes, which end with the process that has started them.

`python -m tl_app.commands.training_process MODULE FLAGS..` runs a command and asks it to end when its standard input
ends: a pipe, whose other end the system closes with the process that has started it, even after SIGKILL.
"""

import contextlib
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

from tl_app.errors import interruption

# Seconds that an interrupted process may take to save its state.
SAVING_SECONDS = 25


def start(module: str, flags: Iterable[str], output: pathlib.Path) -> subprocess.Popen:
  """Starts a command in a new process, since memory and devices belong to a process.

  It receives SIGTERM when this process ends, or when nothing refers to the result any more.

  Args:
    module: what `python -m` runs, like "tl_app.train".
    flags: its arguments.
    output: file to which its standard output and standard error are appended.
  """
  command = [sys.executable, "-m", __name__, module, *flags]
  with open(output, "a", encoding="utf-8") as file:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def ending(processes: Iterable[subprocess.Popen]) -> Iterator[None]:
  """After the block the processes that still run are ended: they may save their states, and then they are killed.

  Args:
    processes: what `start` returned; those that the block adds are ended, too.
  """
  try:
    yield
  except KeyboardInterrupt:
    interruption.acted_on()
    raise
  finally:
    for process in processes:
      if process.poll() is None:
        process.terminate()
    for process in processes:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SAVING_SECONDS)
      process.kill()


def exit_code(process: subprocess.Popen) -> int:
  """Waits for the end of a process and returns its exit code. An interruption is passed on to it."""
  with ending([process]):
    return process.wait()


def failure(code: int, output: pathlib.Path) -> str:
  """Returns why a process has failed, in one line.

  Args:
    code: its exit code.
    output: file of its output, whose last line is the reason.
  """
  lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
  last = next((line.strip() for line in reversed(lines) if line.strip()), "no output").removeprefix("tl_app: ")
  return f"ended by {signal.Signals(-code).name} after the line: {last}" if code < 0 else last


def _end_with_parent():
  """Waits for the end of standard input, which nobody writes to, then asks this process to end."""
  while os.read(0, 1):
    pass
  os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
  """Runs the module that the first argument names, with the others as its own."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  sys.argv = sys.argv[1:]
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
