"""Starts the workers of a run on loopback, under TF_CONFIG."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import warm_process

# One thread an operation: the sums of two runs are then in the same order.
SETUP = """
import logging, sys
sys.path[:0] = PATHS
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(2)
from tl_app import terminal
logging.basicConfig(format="%(message)s", handlers=[terminal.Handler()])
logging.getLogger("tl_app").setLevel(logging.INFO)
logging.getLogger("tensorflow").setLevel(logging.ERROR)
"""
RUN = (
  SETUP
  + """
from tests.distribution import cases
from tl_app.errors import RunFailed, UserError
try:
  cases.main(sys.argv)
except (RunFailed, UserError) as error:
  print("tl_app: " + terminal.speaker() + str(error), file=sys.stderr, flush=True)
  sys.exit(1)
"""
)
ROOT = pathlib.Path(__file__).resolve().parents[2]


def cluster(workers: int) -> list[str]:
  """Returns the TF_CONFIG of each of some workers on loopback, with ports that are free now."""
  sockets = [socket.socket() for _ in range(workers)]
  for each in sockets:
    each.bind(("127.0.0.1", 0))
  addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
  for each in sockets:
    each.close()
  tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(workers)]
  return [json.dumps(task) for task in tasks]


def start(code: str, argument: dict, tf_config: str = "") -> warm_process.Popen:
  """Starts a process that has TensorFlow, with `argument` as JSON after its code; returns the process."""
  pipe, environment = subprocess.PIPE, dict(os.environ)
  environment |= {"TF_CONFIG": tf_config} if tf_config else {}
  code = code.replace("PATHS", repr([str(ROOT), str(ROOT / "tests")]))
  process = warm_process.Popen(
    [sys.executable, "-c", code, json.dumps(argument)], env=environment, stdin=pipe, stdout=pipe, stderr=pipe
  )
  process.stdin.close()
  return process


def finish(processes: list[warm_process.Popen]) -> list[tuple[int, str]]:
  """Waits for processes; returns the exit code and the lines of each."""
  lines = [process.stdout.read().decode() + process.stderr.read().decode() for process in processes]
  return [(process.wait(), text) for process, text in zip(processes, lines)]


def run(argument: dict, workers: int = 1) -> list[tuple[int, str]]:
  """Runs the cases of `cases.main` in one process, or in some workers; returns the exit code and the lines of each."""
  configs = cluster(workers) if workers > 1 else [""]
  return finish([start(RUN, argument, tf_config) for tf_config in configs])
