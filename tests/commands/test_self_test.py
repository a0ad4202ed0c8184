"""The self-test finds each run that differs, and says what it could not check. Stand-ins take the place of runs."""

import json
import pathlib
import signal
import types

import h5py
import numpy as np
import pytest

from tl_app.commands import self_test, training_process
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import phase_rules

LOG = [{"phase": "probe", "epoch": 1, "loss": 1.0}, {"phase": "full", "epoch": 1, "loss": 0.5}]


def write(run, weight=1.0, probe=1.0):
  for candidate in ("probe", "fine_tuned"):
    (run / "checkpoints" / candidate).mkdir(parents=True, exist_ok=True)
  with h5py.File(run / "checkpoints/model.weights.h5", "w") as file:
    file["layers/head/vars/0"] = np.array([weight], np.float32)
  np.savez(run / "checkpoints/probe/weights.npz", head=np.array([probe], np.float32))
  np.savez(run / "checkpoints/fine_tuned/weights.npz", head=np.array([weight], np.float32))
  (run / "metrics.json").write_text(json.dumps({"accuracy": 0.5}))
  (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))


class Training:
  """A training that behaves as the real one: it waits in its last phase for a signal, and continues."""

  started: list = []
  weights: dict = {}
  probes: dict = {}
  ends_early = False
  refuses: str = ""

  def __init__(self, command, stdin, stdout, stderr):
    flags = dict(argument.removeprefix("--").partition("=")[::2] for argument in command[4:])
    self.flags, self.run, self.code = flags, pathlib.Path(flags["workdir"]), None
    lives = [training.run for training in self.started].count(self.run)
    self.started.append(self)
    if self.refuses and self.refuses in " ".join(command):
      stdout.write("tl_app: there is one GPU\n")
      self.code = 2
    elif self.run.name == "interrupted" and lives < 2 and not self.ends_early:
      stdout.write("continuing the run in x, as saved at y\n" if lives else "begins\n")
      write(self.run)
    else:
      write(self.run, self.weights.get(self.run.name, 1.0), self.probes.get(self.run.name, 1.0))
      self.code = 0

  def poll(self):
    return self.code

  def send_signal(self, number):
    if self.code is None:
      self.code = 128 + number

  def kill(self):
    if self.code is None:
      self.code = -9

  def wait(self, timeout=None):
    return self.code


@pytest.fixture
def training(monkeypatch):
  """Returns a class of trainings that `self_test` starts; its attributes say how they end."""
  kind = type("Run", (Training,), {"started": [], "weights": {}, "probes": {}})
  monkeypatch.setattr(training_process.subprocess, "Popen", kind)
  monkeypatch.setattr(self_test, "AGAIN", 0.0)
  backbone = types.SimpleNamespace(keeps_seeds=True, has_training_mode=True)
  monkeypatch.setattr(self_test, "_model", lambda root: types.SimpleNamespace(backbone=backbone))
  return kind


def test_equal_runs_pass(training):
  checks = self_test.self_test(Config(dataset="digits", batch_size=8))
  assert [check.passed for check in checks] == [True, True]
  assert checks[0].result == "equal to the bit"
  assert checks[1].result == "largest difference of the weights 0.0e+00 (head of the probe), 0.0e+00 (all candidates)"
  self_test.require_all(checks)
  runs = [(start.run.name, start.code) for start in training.started]
  interrupted = ("interrupted", 128 + signal.SIGTERM), ("interrupted", -9), ("interrupted", 0)
  assert runs == [("whole", 0), *interrupted, ("devices_1", 0), ("devices_2", 0)]
  assert {start.flags["max_examples"] for start in training.started} == {"32"}


def test_other_weights_after_a_kill_fail(training):
  training.weights["interrupted"] = np.nextafter(np.float32(1), 2)
  first, _ = checks = self_test.self_test(Config(dataset="digits"))
  assert first.passed is False and first.result.startswith("differs: checkpoints/fine_tuned/weights.npz head")
  with pytest.raises(RunFailed, match="continued: differs"):
    self_test.require_all(checks)


def test_other_weights_on_two_devices_fail_unless_dropout_explains_them(training):
  training.weights["devices_2"] = 1.5
  second = self_test.self_test(Config(dataset="digits"))[1]
  assert second.passed is None and second.result.endswith("dropout draws other random numbers on each device")
  training.probes["devices_2"] = 1.5
  training.started.clear()
  second = self_test.self_test(Config(dataset="digits"))[1]
  assert second.passed is False and second.result.endswith("more than 1e-05")


def test_what_cannot_be_checked_has_a_reason(training):
  training.ends_early, training.refuses = True, "--strategy=mirrored"
  first, second = self_test.self_test(Config(dataset="digits"))
  assert first.passed is None and first.result == "not checked: the training is too short to be interrupted"
  assert second.passed is None and second.result == "not checked: there is one GPU"


def test_a_run_that_cannot_start_is_refused(training):
  training.refuses = "--dataset=digits"
  with pytest.raises(UserError, match="^there is one GPU$"):
    self_test.self_test(Config(dataset="digits"))


def test_the_short_run_keeps_smaller_values():
  short = self_test.shortened(Config(max_examples=10, epochs=1, head_epochs=2, batch_size=64))
  assert (short.max_examples, short.epochs, short.head_epochs, short.export) == (10, self_test.EPOCHS, 2, False)


def test_the_short_run_makes_updates():
  short = self_test.shortened(Config(accumulate_steps=64, recipe="lp_ft"))
  phases = recipes.plan(short, Facts(self_test.STEPS * self_test.BATCH_SIZE, 2, 1e-4, {"layer": ("layer/kernel",)}))
  assert not phase_rules.accumulation_makes_an_update(short, phases, None, None)
