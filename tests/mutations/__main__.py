"""Plants bugs into a copy of the code, one at a time, and runs the tests that should find each.

python -m tests.mutations [--names=cache,order] [--list]

The table has a row for each bug: the test that found it, or "survived". The exit code is 1 if one survived.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from tests.mutations.planted import BUGS, Bug

ROOT = pathlib.Path(__file__).resolve().parents[2]


def found_by(bug: Bug, copy: pathlib.Path) -> str:
  """Returns the first test that fails with a bug, or "" if none does.

  Args:
    bug: the `Bug`.
    copy: a copy of the repository, which is whole again afterwards.
  """
  module = copy / "tl_app" / bug.module
  original = module.read_text(encoding="utf-8")
  module.write_text(original.replace(bug.text, bug.planted), encoding="utf-8")
  try:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-x", "-p", "no:cacheprovider"]
    tests = [f"tests/{path}" for path in bug.tests]
    done = subprocess.run(
      [*command, *tests], cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True
    )
  finally:
    module.write_text(original, encoding="utf-8")
  if done.returncode == 0:
    return ""
  failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
  if done.returncode != 1 or not failed:
    raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
  return failed[0].partition(" ")[2].partition(" - ")[0].removeprefix("tests/")


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--names", default="", help="parts of names of bugs, with commas; all without it")
  parser.add_argument("--list", action="store_true", help="only print the names")
  options = parser.parse_args()
  chosen = {name: bug for name, bug in BUGS.items() if any(part in name for part in options.names.split(","))}
  if options.list:
    print("\n".join(chosen))
    return
  survived = 0
  with tempfile.TemporaryDirectory() as scratch:
    copy = pathlib.Path(scratch) / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".ruff_cache", "runs"))
    for name, bug in chosen.items():
      start = time.monotonic()
      test = found_by(bug, copy)
      survived += not test
      print(f"{name}: {test or 'SURVIVED'} ({time.monotonic() - start:.0f} s)", flush=True)
  print(f"{len(chosen) - survived} of {len(chosen)} found")
  sys.exit(int(survived > 0))


if __name__ == "__main__":
  main()
