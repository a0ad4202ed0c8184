"""Writer of the files that a run leaves in its workdir, without a run."""

import json

import numpy as np

from tl_app import config as config_lib
from tl_app import files
from tl_app.report import predictions
from tl_app.tasks import SINGLE_LABEL


def write_run(workdir, class_names, num_examples=400, skill=4.0, source="movie_reviews"):
  """Fills `workdir` as a run of two phases does, and returns the metrics."""
  rng = np.random.default_rng(0)
  task, labels = SINGLE_LABEL.with_codec(names=tuple(class_names)), np.arange(num_examples) % len(class_names)
  logits = rng.normal(size=(num_examples, len(class_names))) + skill * np.eye(len(class_names))[labels]
  label_names = [class_names[i] for i in labels]
  counts = {name: label_names.count(name) for name in class_names}
  config = config_lib.Config(workdir=str(workdir), backbone="tiny.test", dataset=source, epochs=2)
  metrics = {
    "test": task.metrics.compute_metrics(logits, labels),
    "validation": task.metrics.compute_metrics(logits[:100], labels[:100]),
    "majority_accuracy": 1 / len(class_names),
    "seconds": {"features": 61.0, "train": 9.5, "evaluate": 0.2, "export": 3.0},
    "peak_rss_mb": 812.4,
    "selected": "fine_tuned",
    "parity": {"num_examples": 64, "label_flips": 0, "max_probability_difference": 3e-7},
    "environment": {"python": "3.12.1", "packages": {"keras": "3.15.1"}},
    "something_new": {"unknown": [1, 2]},
  }
  plan = {
    "backbone": {
      "name": "tiny.test",
      "kind": "saved_model",
      "feature_size": 8,
      "parameters": 123456,
      "notes": ["stages from names"],
    },
    "stages": [
      {"name": "block1", "variables": 4, "parameters": 100},
      {"name": "head", "variables": 2, "parameters": 18},
    ],
    "phases": [phase("probe", {"head": 1e-3}), phase("full", {"block1": 1e-4, "head": 1e-3})],
    "preprocessing": {"max_length": 48},
  }
  manifest = {
    "source": source,
    "split_seed": 0,
    "sampled": ["test", "validation"],
    "counts": {"train": counts, "validation": {}, "test": counts},
    "skipped": [{"id": "rotten.jpg", "reason": "truncated JPEG"}],
    "notes": ["3 duplicates"],
  }
  files.write_text(workdir / "config.json", config_lib.to_json(config))
  for name, value in (("metrics", metrics), ("plan", plan), ("splits", manifest)):
    files.write_json(workdir / f"{name}.json", value)
  epochs = [epoch("probe", 1), epoch("probe", 2), epoch("full", 1)]
  (workdir / "log.jsonl").write_text("\n".join(map(json.dumps, epochs)) + '\n{"phase": "full", "epo')
  ids = [f"row:{i}" for i in range(num_examples)]
  rows = task.answers.rows(ids, label_names, task.answers.outputs(logits))
  predictions.write(workdir / "predictions_test.csv", task.answers.columns, rows)
  return metrics


def phase(name, rates):
  common = {"epochs": 2, "steps_per_epoch": 10, "batch_size": 32, "weight_decay": 0.01, "warmup_steps": 2}
  return {"name": name, "train_stages": list(rates), "learning_rates": rates, "examples": 320} | common


def epoch(phase_name, number):
  metrics = {"loss": 1 / number, "accuracy": 0.5, "val_loss": 1.1 / number, "val_accuracy": 0.4}
  return {"phase": phase_name, "epoch": number, "learning_rate": 1e-3, "seconds": 0.1} | metrics
