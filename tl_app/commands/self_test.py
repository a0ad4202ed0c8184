"""The self-test of a training: the promises of a run, checked on this machine with the flags of the user."""

import dataclasses
import logging
import pathlib
import signal
import tempfile
import time
from collections.abc import Sequence

from tl_app import workdir as workdir_lib
from tl_app.commands import finished_run, run_differences, training_process
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.report import epoch_log, formatting

log = logging.getLogger(__name__)

# Steps of an epoch, and epochs: enough to interrupt a run in the middle.
STEPS, EPOCHS, HEAD_EPOCHS = 4, 3, 20
BATCH_SIZE = 32
# Largest difference of weights between one device and two: sums of float32 in another order.
TOLERANCE = 1e-5
# Seconds between two looks at the log of a run, and until a run that continues is killed again.
LOOK, AGAIN = 0.02, 1.0
# A run that continues says so.
CONTINUES = "continuing the run in "


@dataclasses.dataclass(frozen=True)
class Check:
  """The result of a check.

  Attributes:
    name: what was checked.
    result: what was found, as a sentence without a full stop.
    passed: whether the promise holds; None if it cannot be checked here.
  """

  name: str
  result: str
  passed: bool | None


def self_test(config: Config) -> list[Check]:
  """Checks that a run which is killed and continued, and a run on two devices, equal an uninterrupted one.

  The runs are short copies of the configuration, in a temporary directory: a few steps of each phase, without export.

  Args:
    config: the `Config`.

  Returns:
    The checks. Each is logged when it is done.

  Raises:
    UserError: the run cannot start; the message is that of `train`.
    RunFailed: the run itself failed.
  """
  with tempfile.TemporaryDirectory(prefix="tl_app_self_test_") as scratch:
    short, root = shortened(config), pathlib.Path(scratch)
    log.info("self-test: a run of at most %d training examples, without interruption", short.max_examples)
    _run_to_end(short, root / "whole")
    checks = []
    for check in (_interrupted, _two_devices):
      checks.append(check(short, root))
      log.info("self-test: %s: %s", checks[-1].name, checks[-1].result)
  return checks


def require_all(checks: Sequence[Check]) -> None:
  """Raises `RunFailed` if a check did not pass."""
  failed = [check for check in checks if check.passed is False]
  if failed:
    raise RunFailed("self-test: " + "; ".join(f"{check.name}: {check.result}" for check in failed))


def shortened(config: Config) -> Config:
  """Returns the config of a run of a few steps, whose state is saved as often as possible."""
  batch = config.batch_size if isinstance(config.batch_size, int) else BATCH_SIZE
  examples = STEPS * batch
  return dataclasses.replace(
    config,
    max_examples=min(config.max_examples or examples, examples),
    epochs=min(max(config.epochs, EPOCHS), 2 * EPOCHS),
    head_epochs=min(config.head_epochs, HEAD_EPOCHS),
    # The user's number of batches for an update may be more than all of these.
    accumulate_steps=min(config.accumulate_steps, STEPS),
    early_stopping_patience=0,
    max_minutes=0.0,
    export=False,
    profile_input=False,
    resume="auto",
    checkpoint_minutes=1e-3,
  )


def _interrupted(config, root):
  """Interrupts a run in its last phase, kills it when it has continued, and compares it with the whole run."""
  name, run = "a run that is interrupted, killed and continued", root / "interrupted"
  epochs = epoch_log.read(workdir_lib.Workdir(root / "whole").log)
  last = epochs[-1]["phase"] if epochs else ""
  process = _start(config, run)
  with training_process.ending([process]):
    _wait(process, lambda: _is_in_phase(run, last))
    process.send_signal(signal.SIGTERM)
    code = process.wait()
  if code == 0:
    return Check(name, "not checked: the training is too short to be interrupted", None)
  if code != 128 + signal.SIGTERM:
    raise RunFailed(f"self-test: exit code {code} on SIGTERM: {training_process.failure(code, _output(run))}")
  _kill_when_continued(config, run)
  _run_to_end(config, run)
  difference = run_differences.first_difference(run, root / "whole")
  if not difference:
    return Check(name, "equal to the bit", True)
  if not _model(root).backbone.keeps_seeds:
    return Check(name, f"differs ({difference}): the dropout of this SavedModel has a state that cannot be saved", None)
  return Check(name, f"differs: {difference}", False)


def _kill_when_continued(config, run):
  process = _start(config, run)
  with training_process.ending([process]):
    _wait(process, lambda: CONTINUES in _output(run).read_text(encoding="utf-8", errors="replace"))
    end = time.monotonic() + AGAIN
    _wait(process, lambda: time.monotonic() > end)
    process.kill()


def _two_devices(config, root):
  """Compares a run on one device with one on two."""
  name = "one device and two"
  try:
    for devices, strategy in ((1, "single"), (2, "mirrored")):
      _run_to_end(
        dataclasses.replace(config, strategy=strategy, num_devices=devices - 1 and devices), _on(root, devices)
      )
  except UserError as error:
    return Check(name, f"not checked: {error}", None)
  found = {
    what: run_differences.largest(_on(root, 1), _on(root, 2), [pattern])["weights"]
    for what, pattern in (("head of the probe", "checkpoints/probe/*.npz"), ("all candidates", "checkpoints/*/*.npz"))
  }
  result = "largest difference of the weights " + ", ".join(f"{value:.1e} ({what})" for what, value in found.items())
  if max(found.values()) <= TOLERANCE:
    return Check(name, result, True)
  if found["head of the probe"] <= TOLERANCE and _model(root).backbone.has_training_mode:
    return Check(name, f"{result}: dropout draws other random numbers on each device", None)
  return Check(name, f"{result}: more than {TOLERANCE:.0e}", False)


def _on(root, devices):
  return root / f"devices_{devices}"


def _model(root):
  """Returns the `Model` of the whole run."""
  return finished_run.restore(*finished_run.opened(root / "whole"))


def _is_in_phase(run, name):
  """Returns whether a run has ended an epoch of a phase; of one without epochs, whether it has begun."""
  paths = workdir_lib.Workdir(run)
  if not name:
    return paths.resume.is_dir()
  return any(epoch["phase"] == name for epoch in epoch_log.read(paths.log))


def _start(config, run):
  """Starts a training in a new process."""
  values = dataclasses.asdict(config) | {"workdir": str(run)}
  return training_process.start("tl_app.train", formatting.given_flags(values), _output(run))


def _run_to_end(config, run):
  """Trains in a new process.

  Raises:
    UserError: its exit code is 2; the message is its own.
    RunFailed: it has another exit code than 0.
  """
  code = training_process.exit_code(_start(config, run))
  if code:
    raise (UserError if code == 2 else RunFailed)(training_process.failure(code, _output(run)))


def _wait(process, condition):
  """Waits until a condition holds or a process has ended."""
  while process.poll() is None and not condition():
    time.sleep(LOOK)


def _output(run):
  return run.with_suffix(".txt")
