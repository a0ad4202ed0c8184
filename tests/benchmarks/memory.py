"""Peak resident memory of a probe as the number of examples grows, each run in a fresh process.

python -m tests.benchmarks.memory --output=runs/memory.json
"""

import argparse
import csv
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

from tl_app import files

LABELS = ["warm", "cold"]
COMMON = [f"word{i}" for i in range(30)]


def texts(number, seed=0):
  """Yields rows (text, label) of 6 to 14 words, one of which is the label; no text comes twice."""
  rng = random.Random(seed)
  for index in range(number):
    label = LABELS[index % len(LABELS)]
    words = [*rng.choices(COMMON, k=rng.randint(4, 12)), label]
    rng.shuffle(words)
    yield f"{' '.join(words)} {index}", label


def write(path, number):
  """Writes `texts` as a table and returns its path."""
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("text", "label"), *texts(number)])
  return path


def peak(table, scratch, backbone):
  """Returns the peak resident memory, MB, of a run in a process of its own."""
  workdir = pathlib.Path(tempfile.mkdtemp(dir=scratch))
  command = [sys.executable, "-m", "tl_app.train", f"--dataset=table:{table}", f"--backbone={backbone}"]
  command += [f"--workdir={workdir / 'run'}", f"--feature_cache={scratch / 'features'}", "--noexport"]
  ended = subprocess.run([*command, "--recipe=probe"], capture_output=True, text=True)
  if ended.returncode:
    raise SystemExit(ended.stderr[-2000:])
  return files.read_json(workdir / "run" / "metrics.json")["peak_rss_mb"]


def measure(sizes, rounds, backbone):
  """Returns {"fills" or "reads": {number of examples: [MB of each run]}}: the first run of a size fills the cache."""
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    tables = {size: write(scratch / f"{size}.csv", size) for size in sizes}
    found = [{size: peak(table, scratch, backbone) for size, table in tables.items()} for _ in range(rounds + 1)]
  runs = {"fills": found[:1], "reads": found[1:]}
  return {kind: {size: [peaks[size] for peaks in own] for size in sizes} for kind, own in runs.items()}


def main():
  """Prints the peak memory of each number of examples and its ratio to the least: median and range of the rounds."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--examples", default="5000,50000", help="Numbers of short texts, with commas.")
  parser.add_argument("--rounds", type=int, default=3, help="Runs of each that read the cache.")
  parser.add_argument("--backbone", default="minilm_l6.pypi")
  parser.add_argument("--output", help="JSON file for the results.")
  flags = parser.parse_args()
  sizes = [int(size) for size in flags.examples.split(",")]
  found = measure(sizes, flags.rounds, flags.backbone)
  for kind, runs in found.items():
    least = runs[min(sizes)]
    for size, peaks in runs.items():
      ratios = [own / other for own, other in zip(peaks, least)]
      print(f"{kind} the cache {size:8,} examples {_spread(peaks, '.0f')} MB, ratio {_spread(ratios, '.2f')}")
  if flags.output:
    files.write_json(pathlib.Path(flags.output), {"backbone": flags.backbone, "peak_rss_mb": found})


def _spread(values, form):
  return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
  main()
