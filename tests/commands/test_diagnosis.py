"""A whole run with planted faults: slices and the label review, and evaluation with corrections."""

import csv
import dataclasses
import pathlib

import numpy as np
import pytest
import tiny_data
import tiny_modules

from tl_app import files
from tl_app.commands import evaluate
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns (config, workdir, ids of planted wrong labels): half of the labels of one region are wrong."""
  root = tmp_path_factory.mktemp("diagnosis")
  tiny_data.reviews(root / "plain.csv", n=600)
  rng, planted = np.random.default_rng(0), []
  with open(root / "plain.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  for i, row in enumerate(rows):
    row["region"] = f"r{i // 2 % 3}"
    if row["region"] == "r1" and rng.random() < 0.3:
      row["label"] = {"positive": "negative", "negative": "positive"}[row["label"]]
      planted.append(f"reviews.csv:{i + 2}")
  with open(root / "reviews.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  config = Config(
    backbone=tiny_modules.bert(root / "bert"),
    dataset=f"table:{root / 'reviews.csv'}",
    workdir=str(root / "run"),
    cache_dir=str(root / "cache"),
    slice_columns="region",
    select_metric="worst_group",
    validation_fraction=0.2,
    recipe="probe",
    export=False,
  )
  train_lib.train_and_evaluate(config, root / "run")
  return config, root / "run", set(planted)


def test_the_planted_slice_is_worse_and_its_labels_are_proposed(run):
  _, workdir, planted = run
  metrics = files.read_json(workdir / "metrics.json")
  slices = metrics["test"]["slices"]
  assert [row["value"] for row in slices["rows"] if row.get("worse")] == ["r1"]
  assert slices["worst_groups"]["region"]["value"] == "r1" and "region" in slices["fairness"]
  assert "in the worst group of the validation split" in metrics["selection_reason"]
  with open(workdir / "label_review.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  found = {row["id"] for row in rows if row["split"] in ("train", "test")}
  assert len(found & planted) > 0.8 * len(found) > 10
  assert metrics["label_review"]["test"] == sum(row["split"] == "test" for row in rows) > 0
  with open(workdir / "slices_test.csv", newline="") as file:
    (first, *_) = csv.DictReader(file)
  assert set(first) == {"id", "region", "characters"}


def test_evaluation_with_other_slices_and_corrections(run, tmp_path):
  _, workdir, _ = run
  before = evaluate.evaluate(workdir, {"slice_columns": "label"}, str(tmp_path / "out"))["test"]
  assert {row["column"] for row in before["slices"]["rows"]} == {"label", "characters"}
  assert files.read_json(tmp_path / "out/metrics.json")["test"]["slices"] == before["slices"]
  with open(workdir / "label_review.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  with open(tmp_path / "decided.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(row | {"decision": "accept" if row["split"] == "test" else ""} for row in rows)
  after = evaluate.evaluate(workdir, {"corrections": str(tmp_path / "decided.csv")}, "")["test"]
  assert after["num_examples"] == before["num_examples"] and after["accuracy"] > before["accuracy"] + 0.02


def test_groups_that_are_too_small_are_told_before_training(run, tmp_path):
  config, _, _ = run
  small = dataclasses.replace(config, workdir=str(tmp_path / "small"), validation_fraction=0.05)
  with pytest.raises(UserError, match="--select_metric=worst_group: no group has 30 of the .* validation examples"):
    train_lib.train_and_evaluate(small, small.workdir)
  assert not pathlib.Path(small.workdir, "metrics.json").exists()
