"""Writes tables with few examples of each class, and prints or runs the commands that measure presets on them.

python -m tests.benchmarks.small_data --shared=../shared/data --directory=/tmp/small --seeds=0,1,2 \
    --presets=quick,balanced,best --data=banking77_10,sms_spam_10 --run

A few-shot table holds all that may be learnt from, the examples for validation too; the test split is that of the data
set, or a fifth of it. Each run writes its workdir in --directory; results.md there has a row for each run that has
finished: test accuracy with its interval, what was selected, the estimate on validation, and the seconds.
"""

import argparse
import csv
import json
import pathlib
import random
import subprocess
import sys
import time

TEXTS, IMAGES = "minilm_l6.pypi", "efficientnet_lite0.pypi"
# {name: (data set, examples of each class, backbone)}; 0 takes all.
DATA = {
  "banking77_5": ("banking77", 5, TEXTS),
  "banking77_10": ("banking77", 10, TEXTS),
  "banking77_50": ("banking77", 50, TEXTS),
  "sms_spam_10": ("sms_spam", 10, TEXTS),
  "sms_spam_300": ("sms_spam", 150, TEXTS),
  "movie_reviews": ("movie_reviews", 0, TEXTS),
  "clinc150": ("table:{shared}/clinc150", 0, TEXTS),
  "tf_flowers": ("images:{shared}/tf_flowers/all", 0, IMAGES),
  "trashnet": ("images:{shared}/trashnet", 0, IMAGES),
}
NAMES = {"banking77": ("train.tsv", "test.tsv"), "sms_spam": ("all.tsv", None)}


def read(path: pathlib.Path) -> list[tuple[str, str]]:
  """Returns [(text, label)] of a table with these two columns."""
  with open(path, newline="", encoding="utf-8") as file:
    return [(row["text"], row["label"]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def write(path: pathlib.Path, rows: list[tuple[str, str]]) -> None:
  """Writes a table of texts and labels, tab-separated."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = ["text\tlabel", *("\t".join(row) for row in rows)]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def few_shot(shared: pathlib.Path, name: str, per_class: int, seed: int, directory: pathlib.Path) -> str:
  """Writes train.tsv and test.tsv with `per_class` training examples of each class; returns the value of --dataset."""
  train, test = NAMES[name]
  rows = sorted(set(read(shared / name / train)))
  random.Random(seed).shuffle(rows)
  held_out = read(shared / name / test) if test else rows[: len(rows) // 5]
  rest = rows if test else rows[len(rows) // 5 :]
  chosen, count = [], {}
  for row in rest:
    count[row[1]] = count.get(row[1], 0) + 1
    if count[row[1]] <= per_class:
      chosen.append(row)
  write(directory / "train.tsv", chosen)
  write(directory / "test.tsv", held_out)
  return f"table:{directory}"


def command(
  name: str, preset: str, seed: int, shared: pathlib.Path, root: pathlib.Path, more: list[str]
) -> tuple[list[str], pathlib.Path]:
  """Returns (the command of a run, its workdir)."""
  source, per_class, backbone = DATA[name]
  workdir = root / f"{name}-{preset}-{seed}"
  if per_class:
    source = few_shot(shared, source, per_class, seed, root / "data" / f"{name}-{seed}")
  flags = [f"--dataset={source.format(shared=shared)}", f"--backbone={backbone}", f"--workdir={workdir}"]
  flags += [f"--seed={seed}", f"--split_seed={seed}", "--noexport"]
  if preset != "default":
    flags.append(f"--preset={preset}")
  return [sys.executable, "-m", "tl_app.train", *flags, *more], workdir


def row(name: str, preset: str, seed: int, workdir: pathlib.Path, seconds: float | None) -> str:
  """Returns the row of a finished run."""
  metrics = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))
  test, validation = metrics["test"], metrics["validation"]
  interval = " to ".join(f"{bound:.3f}" for bound in test["accuracy_ci95"])
  estimate = f"{validation['accuracy']:.3f} ({validation['estimate'].replace('_', ' ')})"
  took = "" if seconds is None else f"{seconds:.0f}"
  cells = (name, preset, seed, f"{test['accuracy']:.4f} ({interval})", metrics["selected_candidate"], estimate, took)
  return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
  """Prints the commands, or runs them one after the other."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--shared", type=pathlib.Path, default=pathlib.Path("../shared/data"))
  parser.add_argument("--directory", type=pathlib.Path, required=True)
  parser.add_argument("--data", default=",".join(DATA))
  parser.add_argument("--presets", default="quick,balanced,best")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--run", action="store_true", help="Run the commands; otherwise they are printed.")
  parser.add_argument("more", nargs="*", help="Further flags of tl_app.train, after --.")
  arguments = parser.parse_args()
  root = arguments.directory.absolute()
  rows = ["| data | preset | seed | test accuracy | selected | validation | seconds |", "| --- " * 7 + "|"]
  for name in arguments.data.split(","):
    for preset in arguments.presets.split(","):
      for seed in map(int, arguments.seeds.split(",")):
        line, workdir = command(name, preset, seed, arguments.shared.absolute(), root, arguments.more)
        seconds = None
        if not arguments.run:
          print(*line)
        elif not (workdir / "metrics.json").exists():
          start = time.monotonic()
          with open(root / f"{workdir.name}.log", "w", encoding="utf-8") as log:
            code = subprocess.run(line, stdout=log, stderr=log, check=False).returncode
          seconds = time.monotonic() - start
          if code:
            rows.append(
              f"| {name} | {preset} | {seed} | exit code {code}, see {workdir.name}.log | | | {seconds:.0f} |"
            )
        if (workdir / "metrics.json").exists():
          rows.append(row(name, preset, seed, workdir, seconds))
          print(rows[-1], flush=True)
          (root / "results.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
