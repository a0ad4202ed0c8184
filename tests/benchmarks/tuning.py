"""Compares `tune` with a training with default flags at equal wall time, and its methods with each other.

python -m tests.benchmarks.tuning --shared=../shared/data --directory=/tmp/tuned --data=sms_spam_10,banking77_5 \
    --searches=tpe,random,grid,tpe*2

For each data set it trains with default flags, then runs each search, with the seconds of that training for its trials
(`*2`: two processes). The last run of a search, with the best flags, comes after that time. Finished runs are not
repeated. Run nothing else meanwhile.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

from tests.benchmarks import small_data

COLUMNS = ("data", "search", "trials", "trials a minute", "validation", "test accuracy", "seconds")


def timed(line: list[str], workdir: pathlib.Path) -> float:
  """Runs a command once, with its output beside the workdir; returns the seconds that it took when it ran."""
  record = workdir.with_name(f"{workdir.name}.seconds")
  if not record.exists():
    start = time.monotonic()
    with open(workdir.with_name(f"{workdir.name}.log"), "w", encoding="utf-8") as log:
      subprocess.run(line, stdout=log, stderr=log, check=True)
    record.write_text(str(time.monotonic() - start), encoding="utf-8")
  return float(record.read_text(encoding="utf-8"))


def answers(metrics: dict) -> tuple[str, str]:
  """Returns (accuracy on validation with what it was measured on, accuracy on test with its interval)."""
  test, validation = metrics["test"], metrics["validation"]
  interval = " to ".join(f"{bound:.3f}" for bound in test["accuracy_ci95"])
  estimate = f"{validation['accuracy']:.3f} ({validation['estimate'].replace('_', ' ')})"
  return estimate, f"{test['accuracy']:.4f} ({interval})"


def searched(name: str, search: str, seconds: float, line: list[str], root: pathlib.Path) -> tuple:
  """Runs a search whose trials may take `seconds`; returns its row."""
  method, _, processes = search.partition("*")
  workdir = root / f"{name}-{method}{processes}"
  line = [*line, f"--workdir={workdir}", f"--method={method}", f"--minutes={seconds / 60}"]
  took = timed([*line, f"--processes={processes or 1}"], workdir)
  result = json.loads((workdir / "tuning.json").read_text(encoding="utf-8"))
  metrics = json.loads((workdir / result["winner"]["workdir"] / "metrics.json").read_text(encoding="utf-8"))
  trials = len(result["trials"])
  return (name, search, trials, f"{60 * trials / seconds:.1f}", *answers(metrics), f"{took:.0f}")


def main() -> None:
  """Prints a row for each training and search."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--shared", type=pathlib.Path, default=pathlib.Path("../shared/data"))
  parser.add_argument("--directory", type=pathlib.Path, required=True)
  parser.add_argument("--data", default="sms_spam_10,banking77_5,trashnet")
  parser.add_argument("--searches", default="tpe,random,grid,tpe*2")
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  root = arguments.directory.absolute()
  root.mkdir(parents=True, exist_ok=True)
  print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)
  for name in arguments.data.split(","):
    line, workdir = small_data.command(name, "default", arguments.seed, arguments.shared.absolute(), root, [])
    seconds = timed(line, workdir)
    metrics = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))
    rows = [(name, "default flags", "", "", *answers(metrics), f"{seconds:.0f}")]
    print(f"| {' | '.join(map(str, rows[0]))} |", flush=True)
    flags = [flag for flag in line[3:] if not flag.startswith(("--workdir", "--noexport"))]
    for search in arguments.searches.split(","):
      row = searched(name, search, seconds, [sys.executable, "-m", "tl_app.tune", *flags], root)
      print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
  main()
