"""Adaptation to another domain: alignment, the distance of domains, confident answers, and whole runs."""

import csv
import types

import numpy as np
import pytest
import tiny_data
import tiny_modules

from tl_app import files
from tl_app.commands import train
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.training import adaptation, unlabelled


def test_aligned_features_have_the_mean_and_covariance_of_the_target():
  rng = np.random.default_rng(0)
  source, target = (
    rng.normal(size=(4000, 5)) * [1, 2, 3, 4, 5],
    rng.normal(size=(4000, 5)) @ rng.normal(size=(5, 5)) + 7,
  )
  moved = adaptation.align(source, target, source[:3000])
  np.testing.assert_allclose(moved.mean(axis=0), target.mean(axis=0), atol=0.25)
  np.testing.assert_allclose(np.cov(moved.T), np.cov(target.T), atol=0.06 * np.abs(np.cov(target.T)).max())
  assert moved.dtype == np.float32


def test_the_distance_of_domains_is_zero_for_one_and_two_for_different_ones():
  rng = np.random.default_rng(0)
  one, same, other = rng.normal(size=(400, 8)), rng.normal(size=(500, 8)), rng.normal(size=(300, 8)) + 4
  assert adaptation.a_distance(one, same, 0) < 0.4
  assert adaptation.a_distance(one, other, 0) == 2


def test_each_class_has_its_share_of_confident_answers():
  logits = np.array([[5, 0], [4, 0], [1, 0], [0.5, 0], [0, 2], [0, 1]], "float32")
  positions, classes = adaptation.confident(logits, 0.5)
  assert positions.tolist() == [0, 1, 4] and classes.tolist() == [0, 0, 1]


def test_a_target_needs_no_held_out_part_but_more_than_a_few_examples(tmp_path, monkeypatch):
  (tmp_path / "target.txt").write_text("hello there\n" * 3)
  name = f"texts:{tmp_path / 'target.txt'}"
  config = Config(dataset="table:source.csv", unlabelled_dataset=name)
  corpus = unlabelled.read(config, "unlabelled_dataset", "text", tmp_path / "corpus", adaptation.MOST)
  assert len(corpus.train) + len(corpus.held_out) == 1
  features = types.SimpleNamespace(model=None)
  record = types.SimpleNamespace(paths=types.SimpleNamespace(corpus=tmp_path / "corpus"))
  for count, found in ((1, "1 different example"), (9, "9 different examples")):
    monkeypatch.setattr(unlabelled, "features_of", lambda *_, rows=count: np.zeros((rows, 4), "float32"))
    with pytest.raises(UserError, match=f"{name} has {found}, too few to adapt to: name at least 10"):
      adaptation.target_features(config, features, record)
  monkeypatch.setattr(unlabelled, "features_of", lambda *_: np.zeros((10, 4), "float32"))
  assert len(adaptation.target_features(config, features, record)) == 10


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  """Returns the flags of runs whose target has texts of other words around those that decide."""
  root = tmp_path_factory.mktemp("adaptation")
  with open(tiny_data.reviews(root / "source.csv", n=60), encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  with open(root / "target.csv", "w", encoding="utf-8", newline="") as file:
    moved = [(row["text"].replace("film", "cafe").replace("the", ",") + " cafe", row["label"]) for row in rows]
    csv.writer(file).writerows([("text", "label"), *moved])
  target = f"table:{root / 'target.csv'}"
  defaults = {"recipe": "probe", "head_epochs": 20, "head_learning_rate": 3e-2, "export": False, "feature_cache": "off"}
  return defaults | {
    "backbone": tiny_modules.bert(root / "bert"),
    "dataset": f"table:{root / 'source.csv'}",
    "test_dataset": target,
    "unlabelled_dataset": target,
    "images": "images:" + tiny_data.colours(root / "colours"),
  }


@pytest.mark.slow
@pytest.mark.parametrize("method", adaptation.METHODS)
def test_a_head_is_adapted_and_compared_with_the_one_of_the_source(method, flags, tmp_path):
  given = {name: value for name, value in flags.items() if name != "images"}
  hidden = {"head_hidden_units": "16"} if method == "dann" else {}
  metrics = train.train_and_evaluate(Config(adapt=method, select="adapted", **hidden, **given), tmp_path / "run")
  assert metrics["selected_candidate"] == "adapted" and set(metrics["candidates"]) >= {"probe", "adapted"}
  found = metrics["adaptation"]
  assert found["method"] == method and found["target_examples"] == 60
  assert 0 <= found["distance_after"] <= 2 and found["distance"] > 1
  if method == "coral":
    assert found["distance_after"] < found["distance"]
  assert found["source_only_test"]["accuracy"] <= 1 and not (tmp_path / "run" / ".corpus").exists()
  assert (tmp_path / "run" / "checkpoints" / "adapted" / "weights.npz").is_file()
  assert files.read_json(tmp_path / "run" / "metrics.json")["adaptation"] == found


@pytest.mark.slow
def test_a_target_of_another_modality_or_other_classes_is_refused(flags, tmp_path):
  given = {name: value for name, value in flags.items() if name != "images"}
  with pytest.raises(UserError, match="holds images, but --dataset=.* holds texts: name examples of the same kind"):
    config = Config(adapt="coral", **given | {"unlabelled_dataset": flags["images"]})
    train.train_and_evaluate(config, tmp_path / "run")
  (tmp_path / "other.csv").write_text("text,label\ngood film,splendid\nbad film,awful\n")
  with pytest.raises(UserError, match="splendid|awful"):
    train.train_and_evaluate(
      Config(adapt="coral", **given | {"test_dataset": f"table:{tmp_path / 'other.csv'}"}), tmp_path / "other"
    )
