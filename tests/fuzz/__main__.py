"""Reads, checks and predicts damaged files, and prints what is no result and no line of advice.

python -m tests.fuzz --tables=10000 --images=10000 --records=10000 --texts=10000
python -m tests.fuzz --tables=1 --first=4711   # one case again

A case that ends in a traceback, takes more than 10 s, or lets the memory grow by more than 1 GB is a fault. The exit
code is 1 if there is one. The same seed gives the same cases.
"""

import argparse
import collections
import faulthandler
import logging
import pathlib
import sys
import tempfile
import time
import warnings

KINDS = {"tables": "tables", "images": "images", "records": "TFRecord files", "texts": "files of texts without labels"}


def main():
  parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
  for name, what in KINDS.items():
    parser.add_argument(f"--{name}", type=int, default=0, help=f"number of damaged {what}")
  parser.add_argument("--first", type=int, default=0, help="number of the first case")
  parser.add_argument("--seed", type=int, default=0, help="of all cases")
  flags = parser.parse_args()
  from tests.fuzz import cases

  logging.getLogger("tl_app").setLevel(logging.ERROR)
  warnings.simplefilter("ignore")
  with tempfile.TemporaryDirectory() as directory:
    fuzzer = cases.Fuzzer(pathlib.Path(directory), flags.seed)
    found = _run("table", fuzzer.table, flags.first, flags.tables)
    found += _run("folder of images", fuzzer.images, flags.first, -(-flags.images // cases.IMAGES))
    found += _run("TFRecord file", fuzzer.records, flags.first, flags.records)
    found += _run("file of texts", fuzzer.texts, flags.first, flags.texts)
  sys.exit(1 if found else 0)


def _run(name, run, first, count):
  if not count:
    return 0
  counts, faults, start = collections.Counter(), collections.Counter(), time.monotonic()
  for number in range(first, first + count):
    # A hang in C is shown with its place, and ends the process.
    faulthandler.dump_traceback_later(60, exit=True)
    outcome = run(number)
    faulthandler.cancel_dump_traceback_later()
    counts["refused" if outcome.refused else "read"] += 1
    counts["answered"] += outcome.answered
    if outcome.fault:
      faults[outcome.fault.rpartition("(")[2]] += 1
      if faults[outcome.fault.rpartition("(")[2]] == 1:
        print(f"{name} {number}: {outcome.fault[:600]}", flush=True)
    if number % 500 == 499:
      print(f"{name}: {number + 1 - first:,} of {count:,}", flush=True)
  seconds = time.monotonic() - start
  print(f"{name}: {count:,} in {seconds:.0f} s, {dict(counts)}; {sum(faults.values()):,} faults of {len(faults)} kinds")
  return sum(faults.values())


if __name__ == "__main__":
  main()
