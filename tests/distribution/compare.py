"""The largest differences of two runs: weights, predictions and the losses of the epochs."""

import csv
import json
import pathlib

import h5py
import numpy as np


def weights(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns {name: value} of the weights in a file of HDF5."""
  found = {}
  with h5py.File(path) as file:
    file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
  return {name: value for name, value in found.items() if value.dtype.kind == "f" and value.size}


def differences(one: pathlib.Path, two: pathlib.Path) -> dict[str, float]:
  """Returns {"weights", "predictions", "losses"}, the largest differences of two runs, infinite if they differ in form.

  Args:
    one: a workdir.
    two: another.
  """
  return {
    "weights": max(_of_arrays(weights(path), weights(two / path.relative_to(one))) for path in one.rglob("*.h5")),
    "predictions": _of_tables(*(_predictions(root) for root in (one, two))),
    "losses": _of_tables(*(_losses(root) for root in (one, two))),
  }


def _of_arrays(one, two):
  if one.keys() != two.keys():
    return float("inf")
  return max(float(np.abs(one[name].astype(np.float64) - two[name]).max()) for name in one)


def _predictions(root):
  path = root / "predictions_test.csv"
  if not path.exists():
    return []
  with open(path, encoding="utf-8", newline="") as file:
    return [list(row.values()) for row in csv.DictReader(file)]


def _losses(root):
  lines = [json.loads(line) for line in (root / "log.jsonl").read_text(encoding="utf-8").splitlines()]
  return [[str(value) for name, value in line.items() if "loss" in name] for line in lines]


def _of_tables(one, two):
  if len(one) != len(two):
    return float("inf")
  return max((_of_cells(a, b) for rows in zip(one, two) for a, b in zip(*rows)), default=0.0)


def _of_cells(one, two):
  try:
    return abs(float(one) - float(two))
  except ValueError:
    return 0.0 if one == two else float("inf")
