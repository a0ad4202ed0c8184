"""Calibration and prediction sets on several data sets: the table of docs/certainty.md.

python -m tests.benchmarks.certainty --data=../shared/data --output=runs/certainty.json

Each run trains once; probe and, with --recipe=lp_ft, the fine-tuned model are calibrated on its validation split and
measured on its test split.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np
import scipy.stats

from tl_app import backbones
from tl_app.commands import train, workers
from tl_app.compute import devices as devices_lib
from tl_app.config import Config
from tl_app.config.groups import AnswerConfig
from tl_app.recipes import recipes
from tl_app.tasks import prediction_sets, statistics
from tl_app.training import phases
from tl_app.training.selection import HEADS

TEXT, IMAGE = "minilm_l6.pypi", "efficientnet_lite0.pypi"
# {name: (dataset below --data or a starter, backbone, other flags)}.
SETS = {
  "sms_spam": ("table:{data}/sms_spam/all.tsv", TEXT, {}),
  "banking77": ("table:{data}/banking77", TEXT, {}),
  "clinc150": ("table:{data}/clinc150", TEXT, {"without": "oos"}),
  # Its test split has many more questions out of scope than its validation split.
  "clinc150_with_oos": ("table:{data}/clinc150", TEXT, {}),
  "tf_flowers": ("images:{data}/tf_flowers/all", IMAGE, {}),
  "trashnet": ("images:{data}/trashnet", IMAGE, {}),
  "digits": ("digits", IMAGE, {}),
  "goemotions": ("table:{data}/goemotions", TEXT, {"label_column": "labels", "task": "multi_label"}),
}
COVERAGES = (0.9, 0.95)
# Share of calibrated models whose measured coverage is outside of the bounds that are printed.
OUTSIDE = 0.01


def coverage_bounds(coverage: float, validation: int, test: int) -> list[float]:
  """Returns the [low, high] coverage on a test split that split conformal prediction has with probability 0.99.

  Over calibration and test splits the number of sets that hold the class is beta-binomial (Vovk 2012).

  Args:
    coverage: that was asked for.
    validation, test: number of examples of the splits.
  """
  rank = int(np.ceil((validation + 1) * coverage - 1e-9))
  law = scipy.stats.betabinom(test, rank, validation + 1 - rank)
  return [float(law.ppf(OUTSIDE / 2) / test), float(law.ppf(1 - OUTSIDE / 2) / test)]


def measure(task, validation: tuple, test: tuple) -> dict:
  """Returns the row of a model, ready for JSON.

  Args:
    task: the `Task` before calibration.
    validation, test: (logits, targets) of the splits.
  """
  plain = task.calibrate(*validation, AnswerConfig(calibration="none", coverage=0.0))
  fitted = task.calibrate(*validation, AnswerConfig(coverage=0.0))
  found = fitted.metrics.compute_metrics(*test)["calibration"]
  labels = [_answers(one, test[0]) for one in (plain, fitted)]
  row = {
    "accuracy": fitted.metrics.score(*test),
    "ece": [found["uncalibrated"]["ece"], found["ece"], found["ece_if_calibrated"]],
    "validation_loss": [
      one.metrics.calibration(one.codec.calibrated(validation[0]), validation[1])["loss"] for one in (plain, fitted)
    ],
    "test_loss": [found["uncalibrated"]["loss"], found["loss"]],
    "labels_changed": int(np.sum(labels[0] != labels[1])),
    "examples": [len(validation[1]), len(test[1])],
  }
  if task.single_label:
    row["coverage"] = {f"{coverage:g}": _sets(task, validation, test, coverage) for coverage in COVERAGES}
  return row


def _answers(task, logits):
  """Returns the labels, [n, ..]."""
  outputs = task.answers.outputs(logits)
  return task.codec.decision.choose(outputs) if task.single_label else outputs > np.array(task.codec.thresholds)


def _sets(task, validation, test, coverage):
  fitted = task.calibrate(*validation, AnswerConfig(coverage=coverage))
  members = fitted.codec.set_rule.members(statistics.softmax(fitted.codec.calibrated(np.float64(test[0]))))
  found = prediction_sets.measure(members, test[1])
  return found | {"bounds": coverage_bounds(coverage, len(validation[1]), len(test[1]))}


def without(source: pathlib.Path, name: str, directory: pathlib.Path) -> str:
  """Writes the tables of a directory without the rows of a class and returns the new one, for --dataset."""
  for split in ("train", "dev", "test"):
    lines = (source / f"{split}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.rstrip("\n").split("\t")[1] != name]
    (directory / f"{split}.tsv").write_text("".join(kept), encoding="utf-8")
  return f"table:{directory}"


def run(config: Config) -> dict[str, dict]:
  """Trains once and returns {candidate: row}."""
  devices = devices_lib.make(config.strategy, config.num_devices, config.deterministic)
  with devices.watched(), workers.resumable(config.workdir, config, devices) as record:
    features, plan = train.prepare(config, backbones.resolve(config.backbone), record, recipes.plan)
    candidates, _ = phases.train(plan.phases, features, config, record, None)
    data, task, rows = features.data, features.model.task, {}
    for candidate in candidates:
      phases.use(candidate, plan.phases, features)
      logits = (features.head_logits if candidate.name in HEADS else features.logits)(data.test)
      rows[candidate.name] = measure(
        task, (candidate.logits, data.validation_targets), (logits, data.targets[data.test])
      )
  return rows


def table(rows: list[dict]) -> str:
  """Returns the rows as a Markdown table: the mean over the seeds, of a coverage also the number within the bounds."""
  lines = [
    "| data | model | accuracy | ECE before | after | if exact | loss on validation before | after | labels changed "
    "| 0.90: coverage | classes | 0.95: coverage | classes |",
    "|" + " --- |" * 13,
  ]
  for name, candidate in dict.fromkeys((row["data"], row["candidate"]) for row in rows):
    own = [row for row in rows if (row["data"], row["candidate"]) == (name, candidate)]
    cells = [name, candidate, f"{np.mean([row['accuracy'] for row in own]):.3f}"]
    cells += [f"{value:.3f}" for value in np.mean([row["ece"] for row in own], axis=0)]
    cells += [f"{value:.4f}" for value in np.mean([row["validation_loss"] for row in own], axis=0)]
    cells.append(str(sum(row["labels_changed"] for row in own)))
    for coverage in COVERAGES:
      sets = [row["coverage"][f"{coverage:g}"] for row in own if "coverage" in row]
      inside = sum(low <= one["measured"] <= high for one in sets for low, high in [one["bounds"]])
      cells += [
        f"{np.mean([one['measured'] for one in sets]):.3f} ({inside} of {len(sets)} in bounds)" if sets else "",
        f"{np.mean([one['mean_size'] for one in sets]):.2f}" if sets else "",
      ]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def main():
  """Trains on each data set with each seed, prints the table after each run, and writes the numbers."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--data", required=True, help="Directory of the data sets.")
  parser.add_argument("--output", required=True, help="JSON file; runs that it has are not repeated.")
  parser.add_argument("--sets", default=",".join(SETS), help="Names of data sets, separated by commas.")
  parser.add_argument("--seeds", type=int, default=3, help="Number of seeds, of splits and training.")
  parser.add_argument("--recipe", default="probe", help="As of tl_app.train.")
  parser.add_argument("--max_examples", type=int, default=3000, help="As of tl_app.train.")
  parser.add_argument("--image_size", type=int, default=0, help="As of tl_app.train.")
  options = parser.parse_args()
  output = pathlib.Path(options.output)
  rows = json.loads(output.read_text()) if output.exists() else []
  for name in options.sets.split(","):
    dataset, backbone, flags = SETS[name]
    for seed in range(options.seeds):
      key = {"data": name, "seed": seed, "recipe": options.recipe, "max_examples": options.max_examples}
      if any(key.items() <= row.items() for row in rows):
        continue
      given = {flag: value for flag, value in flags.items() if flag != "without"}
      with tempfile.TemporaryDirectory() as workdir, tempfile.TemporaryDirectory() as tables:
        source = dataset.format(data=options.data)
        if "without" in flags:
          source = without(pathlib.Path(source.partition(":")[2]), flags["without"], pathlib.Path(tables))
        config = Config(
          workdir=workdir,
          dataset=source,
          backbone=backbone,
          recipe=options.recipe,
          probe_solver="logistic",
          max_examples=options.max_examples,
          image_size=options.image_size,
          seed=seed,
          split_seed=seed,
          **given,
        )
        rows += [key | {"candidate": candidate} | row for candidate, row in run(config).items()]
      output.parent.mkdir(parents=True, exist_ok=True)
      output.write_text(json.dumps(rows, indent=1) + "\n")
      print(table(rows), flush=True)


if __name__ == "__main__":
  main()
