"""Kills runs at random moments, continues them, and compares the results with those of runs that were not killed.

python -m tests.torture --kills=50 --recipes=probe,lp_ft,lora,pretrain

Each run is a process of its own, which SIGKILL ends. The kills are divided among the cases. The table has the number of
kills, of starts that continued a saved run, the CPU time until one has found it, and "equal" or the first difference.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import warm_process  # noqa: E402

from tests.torture import cases, extraction  # noqa: E402
from tl_app.commands import run_differences  # noqa: E402

CONTINUES = "continuing the run in "
# The case of `extraction`, and its flags in place of those of the fine-tuning.
FEATURES, HEAD = "features", {"recipe": "probe", "head_epochs": 2}


class Life:
  """One process of a run.

  Attributes:
    continued: CPU time in seconds until it has found the saved run; None if it has not continued one.
    seconds: how long it has run.
    code: its exit code.
    last: the last lines that it has printed.
  """

  def __init__(self, arguments, forked, limit=None):
    """Starts the process and waits for its end.

    Args:
      arguments: of Python.
      forked: whether it is forked from a process that has imported TensorFlow.
      limit: seconds until it is killed, or None.
    """
    start, pipe = time.monotonic(), subprocess.PIPE
    popen = warm_process.Popen if forked else subprocess.Popen
    process = popen([sys.executable, *arguments], env=os.environ, stdin=pipe, stdout=pipe, stderr=pipe)
    process.stdin.close()
    self.continued, self.last = None, []
    readers = [
      threading.Thread(target=self._read, args=(stream, process.pid)) for stream in (process.stdout, process.stderr)
    ]
    killer = threading.Timer(limit or 1e6, process.kill)
    killer.daemon = True
    for thread in (*readers, killer):
      thread.start()
    self.code = process.wait()
    self.seconds = time.monotonic() - start
    killer.cancel()
    for thread in readers:
      thread.join()

  def _read(self, stream, pid):
    for line in stream:
      line = line.decode(errors="replace").rstrip()
      if CONTINUES in line:
        self.continued = _cpu_seconds(pid)
      self.last = [*self.last[-8:], line]


def _cpu_seconds(pid):
  """Returns the CPU time of a process that runs."""
  user, system = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
  return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def torture(case: cases.Case, directory: pathlib.Path, kills: int, forked: bool, rng: random.Random) -> dict:
  """Returns the row of the table about a case.

  Args:
    case: the `Case`.
    directory: for its workdirs.
    kills: number of kills.
    forked: as in `Life`.
    rng: chooses the moments.
  """
  whole = Life(case.arguments(directory / "whole"), forked)
  if whole.code:
    return {"kills": 0, "continued": 0, "seconds": 0.0, "result": "fails: " + " | ".join(whole.last[-2:])}
  lives = []
  while len(lives) < kills:
    # The end is rarely reached: what was done is not done again.
    lives.append(Life(case.arguments(directory / "run"), forked, rng.uniform(0.3, 1.0) * whole.seconds))
    if not lives[-1].code:
      break
  killed = sum(life.code in (-9, 137) for life in lives)
  if not lives or lives[-1].code:
    lives.append(Life(case.arguments(directory / "run"), forked))
  seconds = [life.continued for life in lives if life.continued]
  row = {"kills": killed, "continued": len(seconds), "seconds": sum(seconds) / max(1, len(seconds))}
  if lives[-1].code:
    return row | {"result": f"exit code {lives[-1].code}: " + " | ".join(lives[-1].last[-2:])}
  return row | {"result": run_differences.first_difference(directory / "run", directory / "whole") or "equal"}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=50, help="number of kills of all cases together")
  parser.add_argument("--recipes", default="", help="beginnings of names of cases, with commas; all without it")
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--directory", default="", help="an empty one, which keeps all runs")
  parser.add_argument("--forked", action="store_true", help="fork from a process that has imported TensorFlow: faster")
  options = parser.parse_args()
  with contextlib.nullcontext(options.directory) if options.directory else tempfile.TemporaryDirectory() as root:
    pathlib.Path(root).mkdir(parents=True, exist_ok=True)
    made = cases.make(pathlib.Path(root))
    wanted = tuple(options.recipes.split(","))
    chosen = [name for name in (*made, FEATURES) if name.startswith(wanted)]
    if not chosen:
      parser.error(f"--recipes={options.recipes}: the cases are {', '.join((*made, FEATURES))}")
    print(f"{'case':24} kills  continued  CPU seconds until then  result", flush=True)
    failed = False
    for number, name in enumerate(chosen):
      share = (options.kills * (number + 1)) // len(chosen) - (options.kills * number) // len(chosen)
      directory = pathlib.Path(root) / "runs" / name
      directory.mkdir(parents=True)
      rng = random.Random(f"{options.seed} {name}")
      if name == FEATURES:
        live = functools.partial(Life, forked=options.forked)
        row = extraction.torture(made["lp_ft-text_module"].flags | HEAD, directory, share, live, rng)
      else:
        row = torture(made[name], directory, share, options.forked, rng)
      failed |= row["result"] != "equal"
      line = f"{name:24} {row['kills']:5}  {row['continued']:9}  {row['seconds']:22.1f}  {row['result']}"
      print(line + row.get("note", ""), flush=True)
  sys.exit(int(failed))


if __name__ == "__main__":
  main()
