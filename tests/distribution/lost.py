"""Kills one of two workers in the middle of a run, and runs both again: what is printed, and whether results differ.

python -m tests.distribution.lost [--root=DIR]
"""

import argparse
import pathlib
import tempfile
import time

from tests.distribution import cases, launch
from tl_app.commands import run_differences

CASE = "full"
FLAGS = {"strategy": "multi_worker"}
SECONDS = 600


def main():
  """Prints how the other worker ends, and the differences of the run that continues to one of a single process."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--root", default="")
  with tempfile.TemporaryDirectory() as scratch:
    root = pathlib.Path(parser.parse_args().root or scratch)
    paths = cases.world(root / "world")
    one = cases.directory(root / "single", CASE)
    launch.run({"paths": paths, "cases": [CASE], "flags": {"strategy": "single"}, "root": str(one.parent)})
    seconds, code, lines = killed(paths, root / "workers")
    print(f"the other worker ended after {seconds:.1f} s with exit code {code}: {lines.strip().splitlines()[-1]}")
    argument = {"paths": paths, "cases": [CASE], "flags": FLAGS, "root": str(root / "workers")}
    again = launch.run(argument, workers=2)
    print("started again: exit codes", [code for code, _ in again])
    print(next(line for line in again[0][1].splitlines() if line.startswith("continuing")))
    print("differences to one process:", run_differences.largest(one, cases.directory(root / "workers", CASE)))


def killed(paths: dict[str, str], root: pathlib.Path) -> tuple[float, int, str]:
  """Runs two workers, kills one in the second phase; returns (seconds until the other ended, exit code, its lines)."""
  argument = {"paths": paths, "cases": [CASE], "flags": FLAGS, "root": str(root)}
  chief, other = (launch.start(launch.RUN, argument, tf_config) for tf_config in launch.cluster(2))
  log, end = cases.directory(root, CASE) / "log.jsonl", time.monotonic() + SECONDS
  while not (log.exists() and f'"phase": "{CASE}"' in log.read_text(encoding="utf-8")):
    assert chief.poll() is None and time.monotonic() < end, "the run has ended before its second phase"
    time.sleep(0.2)
  other.kill()
  start = time.monotonic()
  ((code, lines),) = launch.finish([chief])
  return time.monotonic() - start, code, lines


if __name__ == "__main__":
  main()
