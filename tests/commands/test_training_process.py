"""Trainings in new processes: an interruption reaches them, and they end with the process that has started them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tl_app.commands import training_process

# Stands for a training: on SIGTERM it saves its state.
TRAINING = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("saved").touch(), print("tl_app: interrupted"), sys.exit(143)))
pathlib.Path("ready").write_text(" ".join(sys.argv[1:]))
time.sleep(60)
"""
PARENT = """
import pathlib
from tl_app.commands import training_process
training_process.start("training", ["--seed=1"], pathlib.Path("output")).wait()
"""


@pytest.fixture
def training(tmp_path, monkeypatch):
  """Makes the module "training" in the working directory."""
  (tmp_path / "training.py").write_text(TRAINING)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(training_process.__file__).parents[2]))


def wait_for(name):
  end = time.monotonic() + 60
  while not pathlib.Path(name).exists():
    assert time.monotonic() < end, name
    time.sleep(0.01)


@pytest.mark.slow
def test_an_interruption_lets_the_training_save_its_state(training):
  output = pathlib.Path("output")
  process = training_process.start("training", ["--seed=1"], output)
  with pytest.raises(KeyboardInterrupt), training_process.ending([process]):
    wait_for("ready")
    raise KeyboardInterrupt
  assert process.returncode == 143 and pathlib.Path("saved").exists()
  assert pathlib.Path("ready").read_text() == "--seed=1"
  assert training_process.failure(143, output) == "interrupted"
  assert training_process.failure(-9, output) == "ended by SIGKILL after the line: interrupted"


@pytest.mark.slow
def test_a_training_ends_when_the_process_that_started_it_is_killed(training):
  parent = subprocess.Popen([sys.executable, "-c", PARENT])
  wait_for("ready")
  assert not pathlib.Path("saved").exists()
  os.kill(parent.pid, signal.SIGKILL)
  assert parent.wait() == -signal.SIGKILL
  wait_for("saved")
