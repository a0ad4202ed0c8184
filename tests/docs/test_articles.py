"""The configs of configs/articles: each says what it is, and runs on a tiny network in place of the named one."""

import csv
import re

import numpy as np
import pytest
import tiny_data
import tiny_modules

from tests.docs.test_configs import ROOT, header
from tl_app import backbones, files, workdir
from tl_app.commands import evaluate
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.config.settings import TYPES
from tl_app.recipes import recipes
from tl_app.training.fit import fit
from tl_app.workdir import Record

CONFIGS = sorted((ROOT / "configs" / "articles").glob("*.cfg"))
# What a tiny network and tiny data need in place of the flags of a config.
TINY = {
  "image": {"image_size": 16, "head_learning_rate": 1e-2},
  "text": {"max_length": 12},
}


def flags(path):
  """Returns {name: value} of the flags in a config."""
  given = dict(re.findall(r"^--(\w+)=(.*)$", path.read_text(), re.MULTILINE))
  return {name: TYPES[name](value) for name, value in given.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Returns {modality: {flags of its data and network}}."""
  root = tmp_path_factory.mktemp("articles")
  return {
    "image": {
      "backbone": tiny_modules.image(root / "image"),
      "dataset": "images:" + tiny_data.colours(root / "photos"),
    },
    "text": {
      "backbone": tiny_modules.bert(root / "bert"),
      "dataset": "table:" + tiny_data.reviews(root / "data.csv", n=40),
    },
  }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_article_says_how_it_is_run_and_what_came_of_it(path):
  fields = header(path)
  assert f"python -m tl_app.train --flagfile=configs/articles/{path.name} " in fields["command"]
  assert f"--workdir=runs/{path.stem}" in fields["command"]
  assert all(fields[name] for name in ("Result", "Time", "Hardware"))
  assert backbones.resolve(flags(path)["backbone"]).name == flags(path)["backbone"]


def tiny_config(path, world, workdir):
  """Returns the `Config` of an article on a tiny network and tiny data."""
  given = flags(path)
  modality = backbones.resolve(given["backbone"]).modality
  tiny = TINY[modality] | world[modality]
  if given["backbone"] == "lstm.scratch":
    # It is small enough with another width.
    tiny |= {"backbone": "lstm.scratch", "network_width": 8, "vocabulary_size": 100}
  return Config(**given | tiny, workdir=str(workdir), feature_cache="off", offline=True)


def assert_planned(phase, config):
  assert (phase["algorithm"], phase["curve"]) == (config.optimizer, config.schedule)
  assert phase["epochs"] == (config.head_epochs if config.recipe == "probe" else config.epochs)
  assert phase["learning_rates"]["head"] == config.head_learning_rate
  assert phase["weight_decay"] == (0 if config.optimizer == "adam" else config.weight_decay)


@pytest.mark.slow
@pytest.mark.parametrize(
  "path", [path for path in CONFIGS if path.stem != "resnet50_frozen"], ids=lambda path: path.stem
)
def test_an_article_about_texts_trains_a_tiny_network(path, world, tmp_path):
  config = tiny_config(path, world, tmp_path / "run")
  with workdir.claim(tmp_path / "run", config) as paths:
    record = Record(paths)
    features, plan = train_lib.prepare(config, backbones.resolve(config.backbone), record, recipes.plan)
    assert_planned(plan.phases[-1].to_json(), config)
    # Its audit finds that every stage has changed.
    result = fit(plan.phases[-1].replace(epochs=3), features, config, record)
  assert result.done and np.isfinite(features.logits(features.data.test)).all()


@pytest.mark.slow
def test_the_article_with_a_hidden_layer_is_trained_exported_and_evaluated_again(world, tmp_path):
  (path,) = (path for path in CONFIGS if path.stem == "resnet50_frozen")
  config = tiny_config(path, world, tmp_path / "run")
  metrics = train_lib.train_and_evaluate(config, tmp_path / "run")
  assert metrics["test"]["accuracy"] >= 0.9 and metrics["parity"]["label_flips"] == 0
  assert_planned(files.read_json(tmp_path / "run" / "plan.json")["phases"][-1], config)
  evaluate.evaluate(tmp_path / "run", {}, str(tmp_path / "again"))
  answers = []
  for file in (tmp_path / "run" / "predictions_test.csv", tmp_path / "again" / "predictions.csv"):
    with open(file, encoding="utf-8", newline="") as opened:
      answers.append([row["prediction"] for row in csv.DictReader(opened)])
  assert answers[0] == answers[1] and len(answers[0]) == metrics["test"]["num_examples"]
