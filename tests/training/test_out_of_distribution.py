"""A run whose model says what is unlike its training data: metrics, export, evaluation, predictions and the report."""

import csv
import dataclasses
import json

import numpy as np
import PIL.Image
import pytest
import tiny_data
import tiny_modules

from tl_app.commands import evaluate, export, finished_run, predict, train
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.report import predictions
from tl_app.serving import handover


@pytest.mark.slow
def test_a_run_accepts_what_is_like_its_training_data(tmp_path, capsys):
  colours, noise = tiny_data.colours(tmp_path / "colours", per_class=40), tmp_path / "noise"
  noise.mkdir()
  rng = np.random.default_rng(0)
  for number in range(30):
    PIL.Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(noise / f"{number}.png")
  (tmp_path / "texts.csv").write_text("\n".join(["text", *map(str, range(40))]))
  flags = {
    "backbone": str(tiny_modules.image(tmp_path / "module")),
    "dataset": f"images:{colours}",
    "image_size": 16,
    "recipe": "probe",
    "probe_solver": "logistic",
    "validation_fraction": 0.3,
    "min_accept": 0.8,
    "accept_by": "ood_score",
    "feature_cache": "off",
  }
  with pytest.raises(UserError, match="--ood_dataset=table:.* holds texts, but --dataset=images:"):
    train.train_and_evaluate(Config(ood_dataset=f"table:{tmp_path / 'texts.csv'}", **flags), tmp_path / "other")
  metrics = train.train_and_evaluate(Config(ood_dataset=f"images:{noise}", **flags), tmp_path / "run")
  found, selective = metrics["ood"], metrics["test"]["selective"]
  assert found["num_examples"] == 30 and set(found["ood_score"]) == set(found["probability"])
  assert found["ood_score"]["auroc"] > 0.9 and found["ood_score"]["recall"] > 0.2
  assert selective["by"] == "ood_score" and selective["accepted"] > 0.4 and "error" in selective
  assert metrics["parity"]["max_ood_difference"] < 1e-3 and metrics["parity"]["accept_differences"] == 0
  assert not (tmp_path / "run" / ".corpus").exists()

  again = evaluate.evaluate(tmp_path / "run", {}, str(tmp_path / "again"))["test"]["selective"]
  assert again == selective
  rows = predictions.read(tmp_path / "run" / "predictions_test.csv")
  assert np.mean([row["accept"] == "true" for row in rows]) == pytest.approx(selective["accepted"])
  assert all((float(row["ood_score"]) <= selective["threshold"]) == (row["accept"] == "true") for row in rows)
  held = [row["label"] in json.loads(row["prediction_set"]) for row in rows]
  assert np.mean(held) == pytest.approx(metrics["test"]["prediction_sets"]["measured"])
  with open(tmp_path / "again" / "predictions.csv", newline="") as file:
    assert [row["accept"] for row in csv.DictReader(file)] == [row["accept"] for row in rows]
  predict.predict(tmp_path / "run", str(noise), str(tmp_path / "answers.jsonl"))
  answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
  assert np.mean([answer["accept"] for answer in answers]) < 0.3
  assert np.mean([answer["ood_score"] for answer in answers]) > 0.8
  predict.predict(tmp_path / "run", str(noise), str(tmp_path / "answers.csv"))
  assert {"accept", "ood_score"} <= set((tmp_path / "answers.csv").read_text().splitlines()[0].split(","))
  page = (tmp_path / "run" / "report.html").read_text()
  assert "Accepted answers" in page and f"images:{noise}" in page


@pytest.mark.slow
def test_a_fine_tuned_model_has_the_score_of_its_own_features(tmp_path, monkeypatch):
  colours = tiny_data.colours(tmp_path / "colours", per_class=12)
  config = Config(
    backbone=str(tiny_modules.image(tmp_path / "module")),
    dataset=f"images:{colours}",
    image_size=16,
    recipe="full",
    epochs=1,
    head_epochs=2,
    select="fine_tuned",
    ood_score=True,
    feature_cache="off",
  )
  metrics = train.train_and_evaluate(config, tmp_path / "run")
  assert metrics["selected_candidate"] == "fine_tuned" and metrics["parity"]["max_ood_difference"] < 1e-3
  assert "ood" not in metrics and "selective" not in metrics["test"]
  _, proof, _ = export.export(tmp_path / "run", str(tmp_path / "probe"), candidate="probe")
  assert proof["max_ood_difference"] < 1e-3 and "accept_differences" not in proof
  paths, config, assets = finished_run.opened(tmp_path / "run")
  accepting = dataclasses.replace(config, min_accept=0.8, accept_by="ood_score")
  with monkeypatch.context() as patch:
    patch.setattr(finished_run, "opened", lambda *_: (paths, accepting, assets))
    directory, proof, _ = export.export(tmp_path / "run", str(tmp_path / "accepting"), candidate="probe")
  assert proof["accept_differences"] == 0 and "It accepts" in (directory / handover.CARD).read_text()
  predict.predict(tmp_path / "run", str(colours), str(tmp_path / "answers.jsonl"))
  answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
  # The training examples are among them.
  assert 0 <= np.mean([answer["ood_score"] for answer in answers]) < 0.7 and "accept" not in answers[0]
