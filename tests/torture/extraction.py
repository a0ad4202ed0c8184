"""Kills of the extraction of features: each loses at most one chunk."""

import pathlib
import random
from collections.abc import Callable

import tiny_data

from tl_app.commands import run_differences

EXAMPLES = 4000
# Examples between two commits to the cache; fewer than those of a real run.
CHUNK = 128
# A training that waits before each chunk, writes down its size, and ends by SIGKILL some seconds after the first one.
CODE = """
import os, runpy, signal, sys, threading, time
sizes, limit, sys.argv = sys.argv[1], float(sys.argv[2]), ["train", *sys.argv[3:]]
from tl_app.commands import cli
start = cli.start_tensorflow

def started():
  start()
  from tl_app.features import disk_cache
  missing = disk_cache.compute_missing

  def counted(cache, hashes, compute, chunk=None):
    timers = [threading.Timer(limit, os.kill, (os.getpid(), signal.SIGKILL))] if limit else []

    def slowly(part):
      if len(part) > disk_cache.PROBES:
        if timers:
          timers.pop().start()
        with open(sizes, "a") as file:
          print(len(part), file=file)
        time.sleep(0.2)
      return compute(part)

    return missing(cache, hashes, slowly, CHUNK)

  disk_cache.compute_missing = counted

cli.start_tensorflow = started
runpy.run_module("tl_app.train", run_name="__main__")
""".replace("CHUNK", str(CHUNK))


def torture(flags: dict, directory: pathlib.Path, kills: int, live: Callable, rng: random.Random) -> dict:
  """Returns the row of the table about the extraction of the features of many texts.

  Args:
    flags: {flag: value} of a training of the head on texts.
    directory: for data, caches and workdirs.
    kills: largest number of kills.
    live: function, arguments of Python -> `Life` of a process that has ended.
    rng: chooses the moments.
  """
  flags = flags | {"dataset": f"table:{tiny_data.reviews(directory / 'many.csv', n=EXAMPLES)}"}

  def run(name, limit):
    given = flags | {"workdir": directory / name, "cache_dir": directory / f"{name}_cache"}
    sizes = directory / f"{name}_sizes"
    return live(["-c", CODE, str(sizes), str(limit), *(f"--{flag}={value}" for flag, value in given.items())])

  lives = [run("whole", 0.0)]
  while len(lives) <= kills and (lives[-1].code or len(lives) == 1):
    lives.append(run("run", rng.uniform(0.1, 0.8)))
  killed = sum(life.code in (-9, 137) for life in lives)
  if lives[-1].code:
    lives.append(run("run", 0.0))
  row = {"kills": killed, "continued": 0, "seconds": 0.0}
  for life in (lives[0], lives[-1]):
    if life.code:
      return row | {"result": "fails: " + " | ".join(life.last[-2:])}
  computed, once = (sum(map(int, (directory / f"{name}_sizes").read_text().split())) for name in ("run", "whole"))
  again = computed - once
  difference = run_differences.first_difference(directory / "run", directory / "whole")
  if again > killed * CHUNK:
    difference = f"{again} rows computed again, more than a chunk of {CHUNK} for each kill"
  return row | {"result": difference or "equal", "note": f"; {again} rows computed again, chunks of {CHUNK}"}
