"""Every --task through a whole run: what is learnt, measured, written, exported, answered and refused."""

import csv
import json
import logging

import numpy as np
import pytest
import rest_server
import scipy.stats
import sklearn.metrics
import tiny_modules

from tl_app import files, tasks
from tl_app.commands import evaluate, predict, train
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.report import predictions
from tl_app.tasks import IMBALANCED, MULTI_LABEL, REGRESSION, SINGLE_LABEL, TOKEN_CLASSIFICATION, cells, thresholds

WORDS = {"word0": "red", "word1": "green", "word2": "blue"}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
  return tiny_modules.strings(tmp_path_factory.mktemp("world") / "strings")


def texts(n=150, seed=0):
  """Returns n different texts and, of each, which of `WORDS` are in it, bool [n, 3]."""
  rng = np.random.default_rng(seed)
  found = {}
  while len(found) < n:
    has = rng.random(3) < (0.5, 0.4, 0.3)
    words = [word for word, yes in zip(WORDS, has) if yes for _ in range(4)]
    words += [f"filler{i}" for i in rng.integers(0, 40, 3)]
    found.setdefault(" ".join(rng.permutation(words)), has)
  return list(found), np.array(list(found.values()))


def table(path, header, rows):
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([header, *rows])
  return f"table:{path}"


def config(backbone, dataset, **flags):
  defaults = {"recipe": "probe", "head_epochs": 60, "head_learning_rate": 3e-2, "feature_cache": "off", "offline": True}
  return Config(backbone=backbone, dataset=dataset, **defaults | flags)


def joined(has):
  return ",".join(name for name, yes in zip(WORDS.values(), has) if yes)


@pytest.fixture(scope="module")
def multi_label(backbone, tmp_path_factory):
  """Returns (metrics, workdir) of a run on cells like "red,blue"; examples without any class are lists."""
  root = tmp_path_factory.mktemp("multi_label")
  rows = [(text, joined(has) or "[]") for text, has in zip(*texts())]
  data = table(root / "colours.csv", ("text", "label"), rows)
  return train.train_and_evaluate(config(backbone, data), root / "run"), root / "run"


@pytest.fixture(scope="module")
def regression(backbone, tmp_path_factory):
  """Returns (metrics, workdir) of a run on two amounts an example."""
  root = tmp_path_factory.mktemp("regression")
  rng = np.random.default_rng(0)
  rows = [
    (text, f"{100 + 20 * has[0] + rng.normal():.3f}", f"{has[1] - 3 * has[2] + 0.1 * rng.normal():.3f}")
    for text, has in zip(*texts())
  ]
  data = table(root / "amounts.csv", ("text", "price", "weight"), rows)
  metrics = train.train_and_evaluate(config(backbone, data, label_columns="price,weight"), root / "run")
  return metrics, root / "run"


def rows_of(path):
  with open(path, newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


@pytest.mark.slow
def test_several_labels_are_learnt_and_measured(multi_label):
  metrics, workdir = multi_label
  assert metrics["task"] == "multi_label" and metrics["test"]["macro_f1"] > 0.9
  assert 0.2 < metrics["baseline"]["macro_f1"] < 0.8
  assert metrics["candidates"].keys() == {"every_class", "nearest_neighbours", "tf_idf", "probe"}
  assert list(metrics["test"]["per_class"]) == ["blue", "green", "red"]
  plan = files.read_json(workdir / "plan.json")
  assert (
    plan["task"]["name"] == "multi_label" and "3 names by ','" in plan["task"]["why"] or "lists" in plan["task"]["why"]
  )
  rows = rows_of(workdir / "predictions_test.csv")
  assert list(rows[0])[:4] == ["id", "label", "prediction", "score"] and len(rows[0]) == 5
  exact = np.mean([row["label"] == row["prediction"] for row in rows])
  assert exact == pytest.approx(metrics["test"]["subset_accuracy"])
  assert any("," in row["prediction"] for row in rows)
  page = (workdir / "report.html").read_text()
  assert "average precision" in page and "acro F1 " in page and 'id="confusions"' not in page


@pytest.mark.slow
def test_the_thresholds_of_validation_are_in_the_export(multi_label, tmp_path):
  metrics, workdir = multi_label
  assert metrics["parity"]["label_flips"] == 0 and metrics["parity"]["max_probability_difference"] < 1e-4
  thresholds = files.read_json(workdir / "checkpoints/task.json")["thresholds"]
  assert thresholds == [row["threshold"] for row in metrics["test"]["per_class"].values()]
  asked, answered = tmp_path / "asked.txt", tmp_path / "answered.jsonl"
  asked.write_text("word0 word0 word2 word2 word0 word2\nfiller1\n")
  predict.predict(str(workdir / "export"), str(asked), str(answered))
  both, none = (json.loads(line) for line in answered.read_text().splitlines())
  assert both["labels"] == ["blue", "red"] and none["labels"] == []
  for name, threshold in zip(("blue", "green", "red"), thresholds):
    assert (both["probabilities"][name] > threshold) == (name in both["labels"])


@pytest.mark.slow
def test_amounts_come_back_in_their_own_units(regression, tmp_path):
  metrics, workdir = regression
  test = metrics["test"]
  assert metrics["task"] == "regression" and test["r2"] > 0.7 and abs(metrics["baseline"]["r2"]) < 0.3
  assert test["per_target"]["price"]["rmse"] > 5 * test["per_target"]["weight"]["rmse"]
  rows = rows_of(workdir / "predictions_test.csv")
  truth, answer = (np.array([float(row[f"price {what}"]) for row in rows]) for what in ("label", "prediction"))
  assert 95 < truth.min() < truth.max() < 125
  assert test["per_target"]["price"]["mae"] == pytest.approx(np.abs(truth - answer).mean(), rel=1e-5)
  assert metrics["parity"]["max_value_difference"] < 1e-4
  asked, answered = tmp_path / "asked.txt", tmp_path / "answered.jsonl"
  asked.write_text("word0 word0 word0 word0 filler1\n")
  predict.predict(str(workdir / "export"), str(asked), str(answered))
  values = json.loads(answered.read_text())["values"]
  assert values["price"] == pytest.approx(120, abs=12) and values["weight"] == pytest.approx(0, abs=1.5)
  assert 'id="targets"' in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_exports_answer_their_example_over_rest(multi_label, regression):
  answer = rest_server.check_example(multi_label[1] / "export")
  assert len(answer["predicted"]) == len(answer["probabilities"]) == 3
  assert len(rest_server.check_example(regression[1] / "export")[""]) == 2


@pytest.mark.slow
def test_finished_runs_of_every_task_are_measured_again(multi_label, regression, tmp_path):
  for metrics, workdir in (multi_label, regression):
    again = evaluate.evaluate(workdir, {}, str(tmp_path / metrics["task"]))
    score = tasks.of_metrics(metrics).metrics.primary_metric
    assert again["test"][score] == pytest.approx(metrics["test"][score], abs=1e-5)
    assert len(rows_of(tmp_path / metrics["task"] / "predictions.csv")) == metrics["test"]["num_examples"]


@pytest.mark.slow
def test_a_finished_run_refuses_labels_that_it_does_not_know(multi_label, tmp_path):
  data = table(tmp_path / "more.csv", ("text", "label"), [("word0", "red,pink")])
  with pytest.raises(UserError, match="does not fit the model of .*: the label 'pink' is unknown"):
    evaluate.evaluate(multi_label[1], {"dataset": data}, "")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["list", "columns", "separator"])
def test_the_forms_of_several_labels_are_one(backbone, tmp_path, form):
  found, has = texts(90)
  flags = {}
  if form == "columns":
    data = table(tmp_path / "a.csv", ("text", *WORDS.values()), [(t, *map(int, h)) for t, h in zip(found, has)])
    flags = {"label_columns": ",".join(sorted(WORDS.values()))}
  elif form == "list":
    lines = [{"text": t, "label": [n for n, yes in zip(WORDS.values(), h) if yes]} for t, h in zip(found, has)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = f"table:{tmp_path / 'a.jsonl'}"
  else:
    data = table(
      tmp_path / "a.csv", ("text", "label"), [(t, joined(h).replace(",", " ; ") or "[]") for t, h in zip(found, has)]
    )
  metrics = train.train_and_evaluate(config(backbone, data, export=False, **flags), tmp_path / "run")
  assert metrics["task"] == "multi_label" and list(metrics["test"]["per_class"]) == ["blue", "green", "red"]
  assert metrics["test"]["macro_f1"] > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_fine_tuning_is_selected_only_if_it_helps(backbone, tmp_path, task):
  found, has = texts(90)
  labels = [joined(h) or "[]" for h in has] if task == "multi_label" else [f"{h @ [1, 2.5, 4]:.1f}" for h in has]
  data = table(tmp_path / "a.csv", ("text", "label"), zip(found, labels))
  flags = {"recipe": "full", "epochs": 6, "learning_rate": 1e-2, "task": task, "export": False}
  metrics = train.train_and_evaluate(config(backbone, data, **flags), tmp_path / "run")
  candidates, score = metrics["candidates"], tasks.of_metrics(metrics).metrics.primary_metric
  assert 0 < candidates["fine_tuned"]["p_value"] <= 1 and candidates["probe"]["p_value"] == 1
  best = max(candidates[name][score] for name in ("probe", "fine_tuned", "averaged"))
  assert metrics["validation"][score] == pytest.approx(best, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("task", "solver"), [("multi_label", "logistic"), ("multi_label", "svm"), ("regression", "ridge")]
)
def test_scikit_learn_finds_the_head_of_every_task(backbone, tmp_path, task, solver):
  found, has = texts(90)
  labels = [joined(h) or "[]" for h in has] if task == "multi_label" else [f"{h @ [1, 2.5, 4]:.1f}" for h in has]
  data = table(tmp_path / "a.csv", ("text", "label"), zip(found, labels))
  metrics = train.train_and_evaluate(
    config(backbone, data, task=task, probe_solver=solver, export=False), tmp_path / "run"
  )
  assert metrics["test"][tasks.of_metrics(metrics).metrics.primary_metric] > 0.5


@pytest.mark.parametrize(
  ("labels", "name", "why"),
  [
    (["a", "b", "a"], "single_label", "2 different labels"),
    ([f"{i / 7:.2f}" for i in range(40)], "regression", "40 different"),
    (
      [f"{i / 7:.2f}" for i in range(40)] + ["n/a"],
      "single_label",
      "40 of them are numbers, the others not, e.g. 'n/a'",
    ),
    (["0,5", "1,5", "2,5"], "single_label", "numbers with a decimal comma"),
    ([str(i) for i in range(40)], "single_label", "--task=regression to predict them as amounts"),
    (["0.5", "1.0", "1.5"] * 9, "single_label", "3 different"),
    (["cat", "dog", "cat,dog"], "multi_label", "1 of 3 different labels join some of 2 names by ','"),
    (["Paris, France", "Rome, Italy", "Bonn, Germany"], "single_label", "3 different"),
    (["x|y", "y|z", "x", "z|x"], "multi_label", "by '|'"),
    (['["a", "b"]', "[]"], "multi_label", "lists"),
  ],
)
def test_auto_gives_the_reason_for_the_task(labels, name, why):
  found, reason = tasks.guess(Config(), set(labels))
  assert found == name and why in reason


def test_auto_takes_columns_of_flags_for_classes_and_others_for_amounts():
  flags = Config(label_columns="a,b")
  assert tasks.guess(flags, {'["0", "1"]', '["1", "1"]'})[0] == "multi_label"
  assert tasks.guess(flags, {'["0.0", "1.0"]', '["1", "1"]'})[0] == "multi_label"
  assert MULTI_LABEL.with_codec(columns_of_labels=("a", "b")).codec.classes(['["0.0", "1.0"]']) == [("b",)]
  assert tasks.guess(flags, {'["0", "1"]', '["1", "2.5"]'})[0] == "regression"


@pytest.mark.slow
def test_the_task_is_logged_and_written(backbone, tmp_path, caplog):
  caplog.set_level(logging.INFO, "tl_app")
  found, has = texts(90)
  data = table(tmp_path / "a.csv", ("text", "label"), zip(found, np.arange(90) / 7))
  train.train_and_evaluate(config(backbone, data, head_epochs=1, export=False), tmp_path / "run")
  assert "task: regression, the labels are numbers, not all whole, 90 different ones" in caplog.text
  assert files.read_json(tmp_path / "run/plan.json")["task"]["name"] == "regression"


@pytest.mark.slow
@pytest.mark.parametrize(
  ("labels", "flags", "message"),
  [
    (["good", "bad"], {"task": "regression"}, "--task=regression takes 1 number.* a label is 'good'"),
    (["1", "nan"], {"task": "regression"}, "a label is 'nan'"),
    (["2.0"], {"task": "regression"}, "all labels of train are 2.0: there is nothing"),
    (["a"], {"task": "multi_label"}, "one class in train"),
    (["a"], {}, "one class in train"),
    (["a", '["a", "b"]'], {"task": "single_label"}, "is the list .*use --task=multi_label"),
    (["a", "b"], {"probe_solver": "ridge"}, "--probe_solver=ridge does not fit --task=single_label"),
    (["a", "b"], {"label_separator": ";", "task": "single_label"}, "--label_separator=; does nothing"),
    (["1", "2"], {"task": "regression", "label_smoothing": 0.1}, "--label_smoothing=0.1 does nothing"),
    (["a", "b"], {"label_columns": "label,other"}, "no column 'other' .--label_columns"),
    (["0", "1"], {"label_columns": "label,empty,full"}, "no positive example of 'empty'"),
    (["2", "1"], {"label_columns": "label,empty", "task": "multi_label"}, "'label' of --label_columns holds '2'"),
  ],
)
def test_labels_that_do_not_fit_end_in_one_line(backbone, tmp_path, labels, flags, message):
  found, _ = texts(30)
  rows = [(text, labels[i % len(labels)], 0, 1) for i, text in enumerate(found)]
  data = table(tmp_path / "a.csv", ("text", "label", "empty", "full"), rows)
  with pytest.raises(UserError, match=message) as caught:
    train.train_and_evaluate(config(backbone, data, **flags), tmp_path / "run")
  assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_drawn_splits_hold_every_class_in_its_share(backbone, tmp_path):
  rng = np.random.default_rng(0)
  shares = np.array([0.5, 0.3, 0.1, 0.05, 0.02])
  has = rng.random((600, 5)) < shares
  rows = [(f"text {i}", ",".join(f"c{j}" for j in np.flatnonzero(row)) or "[]") for i, row in enumerate(has)]
  data = table(tmp_path / "a.csv", ("text", "label"), rows)
  train.train_and_evaluate(config(backbone, data, head_epochs=1, export=False), tmp_path / "run")
  counts = files.read_json(tmp_path / "run/splits.json")["counts"]
  for name in (f"c{i}" for i in range(5)):
    total = sum(counts[split][name] for split in counts)
    assert abs(counts["test"][name] - 0.2 * total) <= 1 + 0.04 * total, (name, counts)


def test_metrics_of_several_labels_are_those_of_scikit_learn():
  rng = np.random.default_rng(0)
  targets = (rng.random((300, 4)) < 0.3).astype(np.float32)
  logits = rng.normal(size=(300, 4)) + 1.5 * targets - 1
  task = MULTI_LABEL.with_codec(names=tuple("abcd"), thresholds=(0.3, 0.4, 0.5, 0.6))
  metrics = task.metrics.compute_metrics(logits, targets)
  answers = task.answers.outputs(logits) > np.array(task.codec.thresholds)
  for average in ("macro", "micro"):
    expected = sklearn.metrics.f1_score(targets, answers, average=average)
    assert metrics[f"{average}_f1"] == pytest.approx(expected, abs=1e-6)
    low, high = metrics[f"{average}_f1_ci95"]
    assert low < expected < high and high - low < 0.15
  assert metrics["subset_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(targets, answers))
  assert metrics["loss"] == pytest.approx(
    sklearn.metrics.log_loss(targets.ravel(), task.answers.outputs(logits).ravel())
  )
  ranked = sklearn.metrics.average_precision_score(targets[:, 1], logits[:, 1])
  assert metrics["per_class"]["b"]["average_precision"] == pytest.approx(ranked)
  assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


@pytest.mark.slow
def test_thresholds_have_the_highest_f1():
  rng = np.random.default_rng(1)
  targets = (rng.random((200, 2)) < 0.3).astype(float)
  outputs = np.round(rng.random((200, 2)) + 0.3 * targets, 2)
  for column, truth, chosen in zip(outputs.T, targets.T, thresholds.best(outputs, targets)):
    scores = [sklearn.metrics.f1_score(truth, column > t) for t in np.linspace(-1, 2, 600)]
    assert sklearn.metrics.f1_score(truth, column > chosen) == pytest.approx(max(scores))


def test_metrics_of_amounts_are_those_of_scipy():
  rng = np.random.default_rng(0)
  task = REGRESSION.with_codec(names=("a",), mean=(3.0,), deviation=(2.0,))
  targets = rng.normal(size=(200, 1))
  logits = targets + 0.5 * rng.normal(size=(200, 1))
  metrics = task.metrics.compute_metrics(logits, targets)
  truth, answer = (task.answers.outputs(values)[:, 0] for values in (targets, logits))
  assert metrics["r2"] == pytest.approx(sklearn.metrics.r2_score(truth, answer))
  assert metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(truth, answer)[0])
  assert metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(truth, answer)[0])
  assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean((truth - answer) ** 2)))
  assert metrics["mae"] == pytest.approx(np.abs(truth - answer).mean())
  for key in task.metrics.metric_titles:
    low, high = metrics[f"{key}_ci95"]
    assert low < metrics[key] < high
  assert task.metrics.compute_metrics(np.zeros((200, 1)), targets)["pearson"] == 0
  same = np.repeat(targets[:1], 20, axis=0)
  assert (
    task.metrics.compute_metrics(logits[:20], same)["r2"] == 0 and task.metrics.compute_metrics(same, same)["r2"] == 1
  )
  assert task.loss.mean_loss(logits, targets) == pytest.approx(np.mean((logits - targets) ** 2))


def test_the_paired_test_sees_a_better_model_and_no_difference_in_noise():
  rng = np.random.default_rng(0)
  targets = (rng.random((400, 3)) < 0.4).astype(np.float32)
  good, fair, fair_too = (skill * targets + rng.normal(size=targets.shape) for skill in (3, 1, 1))
  task = MULTI_LABEL.with_codec(names=tuple("abc"))
  assert task.metrics.p_value(fair, good, targets) < 0.01 < task.metrics.p_value(fair, fair_too, targets)
  amounts = rng.normal(size=(400, 1))
  good, fair, fair_too = (amounts + noise * rng.normal(size=amounts.shape) for noise in (0.2, 1, 1))
  task = REGRESSION.with_codec(names=("a",), mean=(0.0,), deviation=(1.0,))
  assert task.metrics.p_value(fair, good, amounts) < 0.01 < task.metrics.p_value(fair, fair_too, amounts)
  assert task.metrics.p_value(fair, fair, amounts) == 1


@pytest.mark.parametrize(
  ("task", "labels"),
  [
    (SINGLE_LABEL.with_codec(names=("a", "b", "c")), list("abcabcab")),
    (IMBALANCED.with_codec(names=("a", "b", "c")), list("abcabcab")),
    (
      MULTI_LABEL.with_codec(names=("a", "b c", "d"), thresholds=(0.4, 0.5, 0.6)),
      ["a", "a,b c", "", "d", "b c,d", "a,d", "", "b c"],
    ),
    (REGRESSION.with_codec(names=("x",), mean=(1.5,), deviation=(0.5,)), list("12345678")),
    (
      REGRESSION.with_codec(names=("x", "y"), mean=(1.5, 0.0), deviation=(0.5, 3.0)),
      [f"[{n}, {n**2}]" for n in range(8)],
    ),
    (
      TOKEN_CLASSIFICATION.with_codec(names=("O", "B-p", "I-p", "B-q", "I-q")),
      ["O B-p I-p", "B-q", "O", "B-p B-p", "B-q I-q O O"] * 2,
    ),
  ],
)
def test_the_score_can_be_computed_from_the_predictions_file(task, labels, tmp_path):
  targets = task.codec.targets(labels)
  clear = (
    task.codec.as_probabilities(targets) if not task.per_token else task.codec.as_probabilities(np.maximum(targets, 0))
  )
  logits = clear + np.random.default_rng(0).normal(size=clear.shape)
  rows = task.answers.rows([str(i) for i in range(len(labels))], labels, task.answers.outputs(logits))
  predictions.write(tmp_path / "predictions.csv", task.answers.columns, rows)
  with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as file:
    evidence = task.metrics.sufficient_statistics(list(csv.DictReader(file)))
  score = task.metrics.compute_metrics(logits, targets)[task.metrics.primary_metric]
  assert len(evidence) == len(labels) and 0 < score < 1
  assert task.metrics.score_from_statistics(evidence.sum(axis=0)) == pytest.approx(score)
  weights = np.array([[2.0] * len(labels), [1.0] + [0.0] * (len(labels) - 1)])
  assert task.metrics.score_from_statistics(weights @ evidence)[0] == pytest.approx(score)


def test_a_task_comes_back_from_json():
  for task in (
    SINGLE_LABEL.with_codec(names=("a", "b")),
    IMBALANCED.with_codec(names=("a", "b")),
    MULTI_LABEL.with_codec(names=("a", "b"), separator=";", columns_of_labels=("a", "b"), thresholds=(0.25, 0.5)),
    REGRESSION.with_codec(names=("x",), mean=(1.5,), deviation=(0.5,)),
  ):
    assert tasks.from_config(json.loads(json.dumps(task.get_config()))) == task


def test_a_separator_is_one_only_where_the_parts_recur():
  assert cells.separator({"a;b", "a", "b;c", "c"}) == ";"
  assert cells.separator({"Washington, DC", "Portland, OR", "Salem"}) is None
