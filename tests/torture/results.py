"""The results of two runs, compared to the bit."""

import io
import json
import pathlib
import zipfile

import h5py

# What differs in two runs of the same command: times, and what else depends on the machine's load.
TIMES = {"seconds", "peak_rss_mb", "examples_per_second"}
_EXACT = (".csv", ".safetensors")


def first_difference(run: pathlib.Path, whole: pathlib.Path) -> str:
  """Returns where two runs differ first, or "".

  Args:
    run: workdir of the run that was killed.
    whole: workdir of the run that was not.
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
  """Returns {file, or file and key: value} of metrics, log, predictions and weights, without times."""
  metrics = json.loads((run / "metrics.json").read_text())
  values = {f"metrics.json {name}": value for name, value in metrics.items() if name not in TIMES}
  lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
  for number, line in enumerate(lines, start=1):
    values |= {f"log.jsonl {number} {name}": value for name, value in line.items() if name not in TIMES}
  files = [path for part in ("checkpoints", "backbone") for path in (run / part).rglob("*") if path.is_file()]
  for path in [*files, *run.glob("predictions_test.csv")]:
    name = path.relative_to(run).as_posix()
    if path.suffix == ".h5":
      values |= _arrays(name, path.read_bytes())
    elif path.suffix == ".keras":
      # The other files of this archive have the time at which it was written.
      with zipfile.ZipFile(path) as archive:
        values |= _arrays(name, archive.read("model.weights.h5"))
    elif path.name.startswith(("variables.data", "task.json", "vocab.txt")) or path.suffix in _EXACT:
      values[name] = path.read_bytes()
  return values


def _arrays(name, content):
  """Returns {name and path in an HDF5 file: bytes of the array}."""
  found = {}

  def add(path, item):
    if isinstance(item, h5py.Dataset):
      found[f"{name} {path}"] = item[()].tobytes()

  h5py.File(io.BytesIO(content)).visititems(add)
  return found


def _shown(value):
  return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)[:80]
