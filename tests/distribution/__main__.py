"""Compares runs on several devices and of several workers with runs on one device, and prints a table.

python -m tests.distribution [--kinds=mirrored,multi_worker] [--cases=probe,full] [--root=DIR]

The runs are small: tiny networks, 60 to 80 examples, without dropout, in float32.
"""

import argparse
import json
import pathlib
import tempfile

from tests.distribution import cases, launch
from tl_app.commands import run_differences

# {kind: (flags, number of processes)}.
KINDS = {
  "single": ({"strategy": "single"}, 1),
  "mirrored": ({"strategy": "mirrored", "num_devices": 2}, 1),
  "multi_worker": ({"strategy": "multi_worker"}, 2),
}
LIMIT = 1e-5


def main():
  """Runs the cases, and exits with 1 if a difference is larger than `LIMIT`."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kinds", default="mirrored,multi_worker")
  parser.add_argument("--cases", default=";".join(cases.CASES), help="names, separated by semicolons")
  parser.add_argument("--root", default="", help="where the runs go, and where those of an earlier call are used again")
  given = parser.parse_args()
  with tempfile.TemporaryDirectory() as scratch:
    root, kinds, names = pathlib.Path(given.root or scratch), given.kinds.split(","), given.cases.split(";")
    paths = _world(root)
    for kind in ("single", *kinds):
      _run(kind, names, root, paths)
    header = ["case", *(f"{kind}: {what}" for kind in kinds for what in ("weights", "predictions", "losses"))]
    print("\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header))))
    worst = max(_compare(name, kinds, root) for name in names)
  raise SystemExit(int(not worst <= LIMIT))


def _world(root):
  path = root / "paths.json"
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cases.world(root / "world")), encoding="utf-8")
  return json.loads(path.read_text(encoding="utf-8"))


def _run(kind, names, root, paths):
  """Runs the cases of a kind that an earlier call has not run, all in the same processes."""
  flags, workers = KINDS[kind]
  left = [name for name in names if not (cases.directory(root / kind, name) / "metrics.json").exists()]
  argument = {"paths": paths, "cases": left, "flags": flags, "root": str(root / kind)}
  for code, lines in launch.run(argument, workers) if left else []:
    if code:
      print(f"{kind}: exit code {code}: {lines.strip().splitlines()[-1]}", flush=True)
    print("\n".join(line for line in lines.splitlines() if line.partition(": ")[0] in names), flush=True)


def _compare(name, kinds, root):
  """Prints the row of a case and returns its largest difference, infinite if it has not run."""
  found = []
  for kind in kinds:
    directories = [cases.directory(root / each, name) for each in ("single", kind)]
    done = all((directory / "metrics.json").exists() for directory in directories)
    found += run_differences.largest(*directories).values() if done else [float("inf")] * 3
  print("| " + " | ".join([name, *(f"{value:.1e}" for value in found)]) + " |", flush=True)
  return max(found)


if __name__ == "__main__":
  main()
