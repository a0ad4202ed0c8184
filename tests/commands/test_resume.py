"""A training that is killed in the middle of an epoch and continued gives the bits of an uninterrupted one."""

import json
import signal

import numpy as np
import pytest
import tiny_presets
import warm_process

from tl_app import files

# Trains, saves the state after every third batch, and kills itself after the given one.
RUN = """
import json, logging, os, signal, sys
from tl_app.commands import train
from tl_app.config import from_values
from tl_app.training import continuing

settings, last = json.loads(sys.argv[1]), int(sys.argv[2])
count, after_batch = 0, continuing.Callbacks.on_train_batch_end

def on_train_batch_end(self, batch, logs=None):
  global count
  count += 1
  after_batch(self, batch, logs)
  if count == last:
    os.kill(os.getpid(), signal.SIGKILL)

continuing.Callbacks.on_train_batch_end = on_train_batch_end
continuing.SavedFit.is_due = lambda self, minutes: count % 3 == 0
logging.basicConfig(level=logging.INFO, format="%(message)s")
train.train_and_evaluate(from_values(settings, "test"), settings["workdir"])
"""


def _train(settings, last=0):
  return warm_process.run("-c", RUN, json.dumps(settings), str(last))


def _results(root):
  """Returns what must not differ: weights, metrics without times, predictions, and the log without times."""
  metrics = files.read_json(root / "metrics.json")
  for name in ("seconds", "peak_rss_mb"):
    metrics.pop(name)
  log = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
  for line in log:
    line.pop("seconds")
  weights = {}
  for path in (root / "checkpoints").glob("*/*.npz"):
    weights |= {f"{path.parent.name}/{name}": value.tobytes() for name, value in np.load(path).items()}
  return weights, metrics, (root / "predictions_test.csv").read_bytes(), log


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(tmp_path):
  flags = {"recipe": "lp_ft", "head_epochs": 2, "epochs": 2, "batch_size": 8, "head_dropout": 0.2, "export": False}
  flags |= tiny_presets.reviews_run(tmp_path) | {"accumulate_steps": 2, "ema": 0.9, "seed": 3}
  whole, parts = ({**flags, "workdir": str(tmp_path / name)} for name in ("whole", "parts"))
  assert _train(whole).returncode == 0
  # After the third batch of the second epoch of fine-tuning; the state is that of the second.
  assert _train(parts, 2 + 6 + 5).returncode == -signal.SIGKILL
  assert not (tmp_path / "parts/metrics.json").exists()
  done = _train(parts)
  assert done.returncode == 0 and "phase fine_tune: continues after batch 2 of epoch 2" in done.stderr
  assert "probe epoch" not in done.stderr and not (tmp_path / "parts/resume").exists()
  one, other = _results(tmp_path / "whole"), _results(tmp_path / "parts")
  assert one[1:] == other[1:]
  assert one[0] == other[0] and {name.partition("/")[0] for name in one[0]} == {"averaged", "fine_tuned", "probe"}
