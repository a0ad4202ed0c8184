"""The differences of two runs of the same flags: to the bit, or the largest of their numbers."""

import csv
import io
import json
import pathlib
import zipfile
from collections.abc import Iterable

import h5py
import numpy as np

# What differs in two runs of the same command: times, and what else depends on the machine's load.
TIMES = {"seconds", "peak_rss_mb", "examples_per_second"}
_EXACT = (".csv", ".safetensors")


def first_difference(run: pathlib.Path, whole: pathlib.Path) -> str:
  """Returns where two runs differ first, or "".

  Args:
    run: a workdir, of a run that was interrupted for instance.
    whole: another, of a run that was not.
  """
  found, expected = contents(run), contents(whole)
  # What the epochs were comes first, then what they led to.
  for name in sorted(found.keys() | expected.keys(), key=lambda name: (not name.startswith("log"), name)):
    if name not in found or name not in expected:
      return f"{name} is in one of them"
    if found[name] != expected[name]:
      return f"{name}: {_shown(found[name])}, not {_shown(expected[name])}"
  return ""


def contents(run: pathlib.Path) -> dict:
  """Returns {file, or file and key: value} of metrics, log, predictions, weights and export, without times."""
  metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
  values = {f"metrics.json {name}": value for name, value in metrics.items() if name not in TIMES}
  for number, line in enumerate(_log(run), start=1):
    values |= {f"log.jsonl {number} {name}": value for name, value in line.items() if name not in TIMES}
  files = [path for part in ("checkpoints", "backbone", "export") for path in (run / part).rglob("*") if path.is_file()]
  for path in [*files, *run.glob("predictions_test.csv")]:
    name = path.relative_to(run).as_posix()
    if path.suffix == ".h5":
      values |= _arrays(name, path.read_bytes())
    elif path.suffix == ".npz":
      with np.load(path) as arrays:
        values |= {f"{name} {key}": arrays[key].tobytes() for key in arrays.files}
    elif path.suffix == ".keras":
      # The other files of this archive have the time at which it was written.
      with zipfile.ZipFile(path) as archive:
        values |= _arrays(name, archive.read("model.weights.h5"))
    elif path.name == "variables.index":
      values |= _checkpoint(name, path)
    elif path.name.startswith(("task.json", "vocab.txt")) or path.suffix in _EXACT:
      values[name] = path.read_bytes()
  return values


def largest(one: pathlib.Path, two: pathlib.Path, names: Iterable[str] = ("*.h5",)) -> dict[str, float]:
  """Returns {"weights", "predictions", "losses"}, the largest differences of two runs, infinite if they differ in form.

  Args:
    one: a workdir.
    two: another.
    names: patterns of the files of weights below a workdir that are compared.
  """
  paths = [path for name in names for path in sorted(one.rglob(name))]
  return {
    "weights": max((_of_arrays(weights(path), weights(two / path.relative_to(one))) for path in paths), default=0.0),
    "predictions": _of_tables(*(_predictions(root) for root in (one, two))),
    "losses": _of_tables(*(_losses(root) for root in (one, two))),
  }


def weights(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns {name: value} of the weights in a file of HDF5, or of the arrays in one of NumPy."""
  found = {}
  if path.suffix == ".npz":
    with np.load(path) as arrays:
      return {name: arrays[name] for name in arrays.files if arrays[name].dtype.kind == "f" and arrays[name].size}
  with h5py.File(path) as file:
    file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
  return {name: value for name, value in found.items() if value.dtype.kind == "f" and value.size}


def _of_arrays(one, two):
  if one.keys() != two.keys():
    return float("inf")
  return max((float(np.abs(one[name].astype(np.float64) - two[name]).max()) for name in one), default=0.0)


def _predictions(root):
  path = root / "predictions_test.csv"
  if not path.exists():
    return []
  with open(path, encoding="utf-8", newline="") as file:
    return [list(row.values()) for row in csv.DictReader(file)]


def _losses(root):
  return [[str(value) for name, value in line.items() if "loss" in name] for line in _log(root)]


def _log(root):
  """Returns the lines of log.jsonl; [] of a run without epochs, whose head has a solution in closed form."""
  path = root / "log.jsonl"
  return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _of_tables(one, two):
  if len(one) != len(two):
    return float("inf")
  return max((_of_cells(a, b) for rows in zip(one, two) for a, b in zip(*rows)), default=0.0)


def _of_cells(one, two):
  try:
    return abs(float(one) - float(two))
  except ValueError:
    return 0.0 if one == two else float("inf")


def _arrays(name, content):
  """Returns {name and path in an HDF5 file: bytes of the array}."""
  found = {}

  def add(path, item):
    if isinstance(item, h5py.Dataset):
      found[f"{name} {path}"] = item[()].tobytes()

  h5py.File(io.BytesIO(content)).visititems(add)
  return found


def _checkpoint(name, path):
  """Returns {name and key in a TensorFlow checkpoint: bytes of the array}, without the names that Keras has counted."""
  import tensorflow as tf

  reader = tf.train.load_checkpoint(str(path.with_suffix("")))
  keys = sorted(key for key in reader.get_variable_to_shape_map() if key != "_CHECKPOINTABLE_OBJECT_GRAPH")
  return {f"{name} {key}": np.asarray(reader.get_tensor(key)).tobytes() for key in keys}


def _shown(value):
  return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)[:80]
