"""How many of the labels that a run calls probably wrong are wrong, and how many of the wrong ones it finds.

python -m tests.benchmarks.label_review --table=../shared/data/sms_spam/all.tsv --workdir=runs/label_review

Flips some labels of a table of two classes at random, trains a probe on it, and compares label_review.csv with what was
flipped. Wrong labels that the table had before count as mistakes of the review.
"""

import argparse
import csv
import pathlib

import numpy as np

from tl_app import files
from tl_app.commands import train
from tl_app.config import Config
from tl_app.tasks import statistics


def planted(source: pathlib.Path, directory: pathlib.Path, count: int, seed: int) -> tuple[pathlib.Path, set[str]]:
  """Writes the table with flipped labels and returns (it, ids of the flipped rows)."""
  header, *lines = source.read_text(encoding="utf-8").splitlines()
  column = header.split("\t").index("label")
  rows = [line.split("\t") for line in lines]
  names = sorted({row[column] for row in rows})
  if len(names) != 2:
    raise SystemExit(f"{source} has {len(names)} classes: two are needed")
  chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
  for i in chosen:
    rows[i][column] = names[1 - names.index(rows[i][column])]
  table = directory / source.name
  table.write_text("\n".join([header, *map("\t".join, rows)]) + "\n", encoding="utf-8")
  return table, {f"{source.name}:{i + 2}" for i in chosen}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--table", type=pathlib.Path, required=True, help="TSV with the columns text and label.")
  parser.add_argument("--workdir", type=pathlib.Path, required=True, help="Directory for the table and the run.")
  parser.add_argument("--flipped", type=int, default=31, help="Number of labels to flip.")
  parser.add_argument("--seed", type=int, default=0, help="Of the labels that are flipped and of the splits.")
  given = parser.parse_args()
  given.workdir.mkdir(parents=True, exist_ok=True)
  table, flipped = planted(given.table, given.workdir, given.flipped, given.seed)
  config = Config(
    backbone="minilm_l6.pypi",
    dataset=f"table:{table}",
    recipe="probe",
    seed=given.seed,
    split_seed=given.seed,
    export=False,
  )
  train.train_and_evaluate(config, given.workdir / "run")
  with open(given.workdir / "run" / "label_review.csv", newline="", encoding="utf-8") as file:
    proposals = [row for row in csv.DictReader(file) if row["proposed_label"]]
  splits = files.read_json(given.workdir / "run" / "splits.json")["splits"]
  reviewed = flipped & {*splits["train"]["ids"], *splits["test"]["ids"]}
  found = {row["id"] for row in proposals} & flipped
  for name, of in (("proposals are flipped labels", len(proposals)), ("flipped labels are proposed", len(reviewed))):
    low, high = statistics.accuracy_interval(len(found), of, 0)
    print(f"{len(found)} of {of} {name} (95 % interval {low:.3f} to {high:.3f})")


if __name__ == "__main__":
  main()
