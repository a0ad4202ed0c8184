"""The comparison of two runs finds each difference that is no time."""

import json

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tl_app.commands import run_differences


def write(run, weight=1.0, tuned=1.0, accuracy=0.5, loss=0.25, prediction="a", seconds=3.0):
  (run / "checkpoints/fine_tuned").mkdir(parents=True)
  np.savez(run / "checkpoints/fine_tuned/weights.npz", **{"head/0": np.array([tuned, 2.0], np.float32)})
  with h5py.File(run / "checkpoints/model.weights.h5", "w") as file:
    # Keras writes the names of layers too, which differ from run to run.
    file.attrs["name"] = f"functional_{seconds}"
    file["layers/head/vars/0"] = np.array([weight, 2.0], np.float32)
  (run / "metrics.json").write_text(json.dumps({"accuracy": accuracy, "seconds": {"train": seconds}}))
  (run / "log.jsonl").write_text(json.dumps({"epoch": 1, "loss": loss, "seconds": seconds}) + "\n")
  (run / "predictions_test.csv").write_text(f"id,prediction\n1,{prediction}\n")
  return run


@pytest.mark.parametrize(
  ("change", "difference"),
  [
    ({"seconds": 4.0}, ""),
    ({"weight": np.nextafter(np.float32(1), 2)}, "checkpoints/model.weights.h5 layers/head/vars/0: 8 bytes"),
    ({"tuned": np.nextafter(np.float32(1), 2)}, "checkpoints/fine_tuned/weights.npz head/0: 8 bytes"),
    ({"accuracy": 0.75}, "metrics.json accuracy: 0.75, not 0.5"),
    ({"loss": 0.5}, "log.jsonl 1 loss: 0.5, not 0.25"),
    ({"prediction": "b"}, "predictions_test.csv: 18 bytes"),
  ],
)
def test_each_difference_that_is_no_time_is_found(tmp_path, change, difference):
  found = run_differences.first_difference(write(tmp_path / "run", **change), write(tmp_path / "whole"))
  assert found.startswith(difference) and bool(found) == bool(difference)


def test_a_missing_file_is_a_difference(tmp_path):
  run, whole = write(tmp_path / "run"), write(tmp_path / "whole")
  (run / "predictions_test.csv").unlink()
  assert run_differences.first_difference(run, whole) == "predictions_test.csv is in one of them"


def test_runs_without_epochs_have_no_log(tmp_path):
  run, whole = write(tmp_path / "run"), write(tmp_path / "whole")
  for root in (run, whole):
    (root / "log.jsonl").unlink()
  assert run_differences.first_difference(run, whole) == ""
  assert run_differences.largest(run, whole) == {"weights": 0.0, "predictions": 0.0, "losses": 0.0}


def test_names_that_keras_has_counted_are_no_difference_of_exports(tmp_path):
  def exported(name, number, value):
    run = write(tmp_path / name)
    variable = tf.Variable(value, name=f"seed_generator_{number}")
    tf.train.Checkpoint(v=variable).write(str(run / "export" / "variables" / "variables"))
    return run

  whole = exported("whole", 7, 1.0)
  assert run_differences.first_difference(exported("run", 14, 1.0), whole) == ""
  assert "variables.index v/" in run_differences.first_difference(exported("other", 7, 2.0), whole)
