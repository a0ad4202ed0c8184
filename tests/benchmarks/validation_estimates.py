"""How far the estimate of a run is from its test accuracy, by cross-validation and by one validation split.

python -m tests.benchmarks.validation_estimates --dataset=table:mails --backbone=minilm_l6.pypi --workdir=runs/estimates

A probe is trained with each of --splits split seeds, once with --refit=always and once with --refit=never. The table of
--dataset needs a test split of its own, so that only training and validation examples change. Prints for both the mean
difference between estimate and test accuracy (the bias), the standard deviation of this difference, its root mean
square, and the mean test accuracy.
"""

import argparse
import pathlib

import numpy as np

from tl_app import files
from tl_app.commands import train
from tl_app.config import Config


def measured(dataset: str, backbone: str, refit: str, split_seed: int, workdir: pathlib.Path) -> tuple[float, float]:
  """Returns (estimated accuracy, accuracy on the test split) of a run, which is not repeated if it is there."""
  if not (workdir / "metrics.json").exists():
    config = Config(
      dataset=dataset, backbone=backbone, recipe="probe", refit=refit, split_seed=split_seed, export=False
    )
    train.train_and_evaluate(config, workdir)
  metrics = files.read_json(workdir / "metrics.json")
  return metrics["validation"]["accuracy"], metrics["test"]["accuracy"]


def row(name: str, pairs: np.ndarray) -> str:
  """Returns the row of a table for (estimate, test accuracy), float [runs, 2]."""
  difference = pairs[:, 0] - pairs[:, 1]
  cells = difference.mean(), difference.std(ddof=1), np.sqrt(np.mean(difference**2)), pairs[:, 1].mean()
  return f"| {name} | {cells[0]:+.4f} | {cells[1]:.4f} | {cells[2]:.4f} | {cells[3]:.4f} |"


def main() -> None:
  """Runs the splits and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--dataset", required=True)
  parser.add_argument("--backbone", required=True)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--splits", type=int, default=20)
  given = parser.parse_args()
  print("| estimate | bias | standard deviation | root mean square | test accuracy |\n| --- | --- | --- | --- | --- |")
  for refit, name in (("always", "cross-validation"), ("never", "validation split")):
    pairs = [
      measured(given.dataset, given.backbone, refit, seed, given.workdir / f"{refit}-{seed}")
      for seed in range(given.splits)
    ]
    print(row(name, np.array(pairs)), flush=True)


if __name__ == "__main__":
  main()
