"""Compares runs on several devices and of several workers with runs on one device, and prints a table.

python -m tests.distribution [--kinds=mirrored,multi_worker] [--cases=probe,full] [--root=DIR]

The runs are small: tiny networks, 60 to 80 examples, without dropout, in float32.
"""

import argparse
import json
import pathlib
import tempfile

from tests.distribution import cases, compare, launch

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
    root, kinds = pathlib.Path(given.root or scratch), given.kinds.split(",")
    paths = _world(root)
    print("\n".join(_row(name, kinds) for name in ("case", "---")), flush=True)
    worst = max(_case(name, kinds, root, paths) for name in given.cases.split(";"))
  raise SystemExit(int(worst > LIMIT))


def _world(root):
  path = root / "paths.json"
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cases.world(root / "world")), encoding="utf-8")
  return json.loads(path.read_text(encoding="utf-8"))


def _row(name, kinds):
  cells = {"case": [f"{kind}: {what}" for kind in kinds for what in ("weights", "predictions", "losses")]}
  return "| " + " | ".join([name, *cells.get(name, ["---"] * 3 * len(kinds))]) + " |"


def _case(name, kinds, root, paths):
  """Runs a case on one device and of each kind, prints a row and returns the largest difference."""
  found = []
  for kind in ("single", *kinds):
    flags, workers = KINDS[kind]
    argument = {"paths": paths, "cases": [name], "flags": flags, "root": str(root / kind)}
    directory = cases.directory(root / kind, name)
    if not (directory / "metrics.json").exists():
      failed = [lines for code, lines in launch.run(argument, workers) if code]
      if failed:
        print(f"| {name} | {kind} failed: {failed[0].strip().splitlines()[-1]} |", flush=True)
        return float("inf")
    if kind != "single":
      found += compare.differences(cases.directory(root / "single", name), directory).values()
  print("| " + " | ".join([name, *(f"{value:.1e}" for value in found)]) + " |", flush=True)
  return max(found)


if __name__ == "__main__":
  main()
