"""A whole run on tagged words: learnt, measured, exported, answered, checked and refused."""

import csv
import json
import pathlib

import pytest
import rest_server
import seqeval.metrics
import tiny_data
import tiny_modules
import tiny_presets

from tl_app import files
from tl_app.commands import check, evaluate, predict, train
from tl_app.config import Config
from tl_app.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return "table:" + tiny_data.tagged(tmp_path_factory.mktemp("data") / "tagged")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
  """Returns (metrics, workdir) of training a tiny BERT from scratch."""
  root = tmp_path_factory.mktemp("run")
  config = Config(
    backbone=preset(root),
    dataset=data,
    recipe="full",
    epochs=12,
    head_epochs=5,
    batch_size=16,
    learning_rate=3e-2,
    head_learning_rate=3e-2,
    feature_cache="off",
    offline=True,
  )
  return train.train_and_evaluate(config, root / "run"), root / "run"


def preset(directory):
  return tiny_presets.bert(directory / "bert", words=list(tiny_modules.VOCABULARY), layers=2)


def rows_of(path):
  with open(path, newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def test_tags_are_learnt_and_measured(run):
  metrics, workdir = run
  test = metrics["test"]
  assert metrics["task"] == "token_classification" and test["f1"] > 0.9 and test["num_examples"] == 30
  assert list(test["per_class"]) == ["person", "place"] and metrics["baseline"]["f1"] == 0
  assert metrics["candidates"].keys() >= {"no_entity", "nearest_neighbours", "probe", "fine_tuned"}
  assert 0 < metrics["candidates"]["fine_tuned"]["p_value"] <= 1
  rows = rows_of(workdir / "predictions_test.csv")
  truth, answer = ([row[name].split() for row in rows] for name in ("label", "prediction"))
  assert seqeval.metrics.f1_score(truth, answer) == pytest.approx(test["f1"])
  assert sum(map(len, truth)) == test["num_words"]
  plan = files.read_json(workdir / "plan.json")
  assert plan["class_names"] == ["O", "B-person", "I-person", "B-place", "I-place"]
  assert plan["preprocessing"]["words_not_read"] == 0 and plan["task"]["why"].startswith("the labels are tags")
  page = (workdir / "report.html").read_text()
  assert "Entity F1 " in page and "most often confused with" not in page


def test_the_export_answers_with_entities_and_their_places(run, tmp_path):
  metrics, workdir = run
  parity = metrics["parity"]
  assert parity["label_flips"] == 0 and parity["max_probability_difference"] < 1e-4
  assert parity["num_examples"] == metrics["test"]["num_words"]
  text = "the  word0 café word1\tword2 film"
  asked, answered = tmp_path / "asked.txt", tmp_path / "answered.jsonl"
  asked.write_text(f"{text}\n\nthe film\n", encoding="utf-8")
  predict.predict(str(workdir / "export"), str(asked), str(answered))
  first, empty, none = (json.loads(line) for line in answered.read_text().splitlines())
  assert [(entity["text"], entity["type"]) for entity in first["entities"]] == [
    ("word0", "place"),
    ("word1\tword2", "person"),
  ]
  for entity in first["entities"]:
    assert text[entity["start"] : entity["end"]] == entity["text"] and 0.5 < entity["score"] <= 1
  assert len(first["words"]) == len(first["labels"]) == 6
  assert empty["error"] == "the text is empty" and none["entities"] == []
  lists = tmp_path / "lists.jsonl"
  lists.write_text(json.dumps({"text": ["the", "word0"]}))
  predict.predict(str(workdir / "export"), str(lists), str(answered))
  assert json.loads(answered.read_text())["labels"] == ["O", "B-place"]


def test_the_export_answers_its_example_over_rest(run):
  answer = rest_server.check_example(run[1] / "export")
  assert len(answer["words"]) == len(answer["labels"]) == len(answer["probabilities"]) > 0


def test_a_finished_run_is_measured_again_on_other_schemes(run, tmp_path):
  metrics, workdir = run
  assert evaluate.evaluate(workdir, {}, "")["test"]["f1"] == pytest.approx(metrics["test"]["f1"])
  other = "table:" + tiny_data.tagged(tmp_path / "other", scheme="IOBES", seed=1)
  assert evaluate.evaluate(workdir, {"dataset": other}, "")["test"]["f1"] > 0.9


def test_a_long_text_is_read_as_far_as_it_goes(run, tmp_path):
  asked, answered = tmp_path / "asked.txt", tmp_path / "answered.jsonl"
  asked.write_text("the word0 " + "film " * 60 + "word0\n")
  predict.predict(str(run[1] / "export"), str(asked), str(answered))
  answer = json.loads(answered.read_text())
  assert len(answer["labels"]) == 63 and answer["labels"][1] == "B-place" and answer["labels"][-1] == "O"


def test_the_features_of_lower_layers_are_kept_and_the_head_is_scikit_learns(data, tmp_path):
  config = Config(
    backbone=preset(tmp_path),
    dataset=data,
    cache_dir=str(tmp_path / "cache"),
    train_stages="layer_1",
    epochs=2,
    probe_solver="logistic",
    export=False,
    offline=True,
  )
  metrics = train.train_and_evaluate(config, tmp_path / "run")
  kept = [path.name for path in (tmp_path / "cache" / "features").iterdir()]
  assert len(kept) == 2 and any(name.startswith("trunk-") for name in kept)
  # Frozen random layers leave little of what the words are.
  assert metrics["test"]["f1"] > 0.3


def test_the_hub_form_of_bert_tags_words(shared, data, tmp_path):
  config = Config(
    backbone=str(shared("hub/bert_tiny")),
    dataset=data,
    recipe="probe",
    probe_solver="logistic",
    feature_cache="off",
    offline=True,
  )
  metrics = train.train_and_evaluate(config, tmp_path / "run")
  # Its weights are random.
  assert metrics["test"]["f1"] > 0.2 and metrics["parity"]["label_flips"] == 0


def test_check_counts_sentences_by_entity_type(data, tmp_path):
  result, found = check.check(Config(dataset=data, cache_dir=str(tmp_path)))
  assert result["task"] == "token_classification" and result["num_classes"] == 3
  assert "label_noise" in result["not_checked"]
  assert not [finding.line() for finding in found if finding.severity == "serious"]
  directory = pathlib.Path(data.removeprefix("table:"))
  (tmp_path / "train.conll").write_text((directory / "train.conll").read_text())
  (tmp_path / "test.conll").write_text("a\tB-drug\n\nb\tLOC\n")
  _, found = check.check(Config(dataset=f"table:{tmp_path}", cache_dir=str(tmp_path)))
  assert {"unseen_labels", "unreadable"} <= {finding.kind for finding in found if finding.severity == "serious"}


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"pooling": "cls"}, "--pooling=cls does nothing for --task=token_classification"),
    ({"preprocessor": "x"}, "--preprocessor=x does nothing for --task=token_classification"),
    ({"text_pair_column": "1"}, "--text_pair_column=1 does nothing"),
    ({"max_length": 2}, "--max_length=2 leaves no token"),
    ({"probe_solver": "ridge"}, "--probe_solver=ridge does not fit"),
    ({"label_separator": ","}, "--label_separator=, does nothing"),
    ({"task": "token_classification", "label_column": "1"}, "a label holds '.*no tag of a word"),
  ],
)
def test_flags_that_do_not_fit_end_in_one_line(data, tmp_path, flags, message):
  config = Config(backbone=tiny_modules.bert(tmp_path / "bert"), dataset=data, offline=True, **flags)
  with pytest.raises(UserError, match=message) as caught:
    train.train_and_evaluate(config, tmp_path / "run")
  assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_other_data_and_backbones_are_refused(data, tmp_path):
  image = Config(backbone=tiny_modules.image(tmp_path / "image", size=16), dataset=data, offline=True)
  with pytest.raises(UserError, match="reads images, but --dataset=.* holds texts"):
    train.train_and_evaluate(image, tmp_path / "run")
  pictures = "images:" + tiny_data.colours(tmp_path / "colours", per_class=4)
  config = Config(backbone=image.backbone, dataset=pictures, task="token_classification", offline=True)
  with pytest.raises(UserError, match="a label holds 'blue', which is no tag"):
    train.train_and_evaluate(config, tmp_path / "run")
  (tmp_path / "test.conll").write_text("a\tB-drug\n")
  other = Config(backbone=tiny_modules.bert(tmp_path / "bert"), dataset=data, offline=True)
  with pytest.raises(UserError, match="labels of test that train has no example of: 'drug'"):
    train.train_and_evaluate(
      Config(**{**other.__dict__, "test_dataset": f"table:{tmp_path}/test.conll"}), tmp_path / "run"
    )
  assert not (tmp_path / "run").exists()
