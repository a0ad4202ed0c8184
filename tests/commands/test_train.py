"""Whole runs in this process, on tiny backbones and tiny data: what is learnt, written, repeated and refused."""

import csv
import dataclasses
import json
import logging
import pathlib

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_modules
import warm_process

from tl_app import config as config_lib
from tl_app import data, files
from tl_app.assets import Assets
from tl_app.commands import evaluate, inspect_run
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.serving import saved_model

pytestmark = pytest.mark.slow

PIXELS = 16
SPLIT_KEYS = {"num_examples", "loss", "accuracy", "accuracy_ci95", "macro_f1", "per_class", "confusion_matrix"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Tiny backbones and data sets that every run here shares: {name: path or dataset flag}."""
  root = tmp_path_factory.mktemp("world")
  return {
    "image": tiny_modules.image(root / "image"),
    "bert": tiny_modules.bert(root / "bert"),
    "strings": tiny_modules.strings(root / "strings"),
    "colours": "images:" + tiny_data.colours(root / "colours"),
    "shuffled colours": "images:" + tiny_data.colours(root / "shuffled", per_class=40, shuffled=True),
    "reviews": "table:" + tiny_data.reviews(root / "reviews.csv"),
    "shuffled reviews": "table:" + tiny_data.reviews(root / "shuffled.csv", n=200, shuffled=True),
    "cache": str(root / "cache"),
  }


@pytest.fixture
def run(world, tmp_path):
  """Returns a function, names of a backbone and a data set and flags -> (metrics, workdir)."""
  numbers = iter(range(100))

  def train(backbone="image", dataset="colours", **flags):
    workdir = tmp_path / f"run{next(numbers)}"
    return train_lib.train_and_evaluate(configuration(world, backbone, dataset, **flags), workdir), workdir

  return train


def configuration(world, backbone="image", dataset="colours", **flags):
  defaults = {
    "backbone": world[backbone],
    "dataset": world.get(dataset, dataset),
    "cache_dir": world["cache"],
    "image_size": PIXELS if backbone == "image" else 0,
    "recipe": "probe",
    "epochs": 10,
    "head_epochs": 60,
    "learning_rate": 3e-3,
    "head_learning_rate": 1e-2,
    "export": False,
  }
  return Config(**defaults | flags)


def weights(workdir):
  """Returns {name: values} of the weights of the selected model."""
  found = {}
  with h5py.File(workdir / "checkpoints" / "model.weights.h5") as file:
    file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
  return found


def ids(workdir, split):
  return set(files.read_json(workdir / "splits.json")["splits"][split]["ids"])


@pytest.mark.parametrize(
  ("backbone", "dataset", "recipe"),
  [
    ("image", "colours", "probe"),
    ("image", "colours", "full"),
    ("bert", "reviews", "probe"),
    ("strings", "reviews", "full"),
  ],
)
def test_what_can_be_learnt_is_learnt(run, backbone, dataset, recipe):
  metrics, _ = run(backbone, dataset, recipe=recipe)
  assert metrics["test"]["accuracy"] >= 0.9
  assert metrics["majority_accuracy"] <= 0.5


@pytest.mark.parametrize(
  ("backbone", "dataset", "recipe", "chance"),
  [("image", "shuffled colours", "full", 1 / 3), ("strings", "shuffled reviews", "probe", 1 / 2)],
)
def test_shuffled_labels_stay_near_chance(run, backbone, dataset, recipe, chance):
  metrics, _ = run(backbone, dataset, recipe=recipe)
  n = metrics["test"]["num_examples"]
  assert abs(metrics["test"]["accuracy"] - chance) <= 3 * (chance * (1 - chance) / n) ** 0.5


def test_the_workdir_holds_what_the_contract_names(run, world):
  metrics, workdir = run()
  names = {path.name for path in workdir.iterdir() if not path.name.startswith(".")}
  assert names >= {"config.json", "plan.json", "splits.json", "checkpoints", "metrics.json", "predictions_test.csv"}
  assert names >= {"report.html", "log.jsonl"} and "export" not in names
  assert metrics == files.read_json(workdir / "metrics.json")
  assert metrics.keys() >= {"test", "validation", "majority_accuracy", "seconds", "peak_rss_mb", "selected"}
  assert metrics["seconds"].keys() >= {"features", "train", "evaluate", "export"}
  assert metrics["selected"] == "probe" and metrics["peak_rss_mb"] > 0
  for split in ("test", "validation"):
    assert metrics[split].keys() >= SPLIT_KEYS
    assert metrics[split]["num_examples"] == len(ids(workdir, split))
    low, high = metrics[split]["accuracy_ci95"]
    assert 0 <= low <= metrics[split]["accuracy"] <= high <= 1
  assert list(metrics["test"]["per_class"]) == ["blue", "green", "red"]
  assert metrics["test"]["per_class"]["red"].keys() == {"precision", "recall", "f1", "support"}
  assert np.sum(metrics["test"]["confusion_matrix"]) == metrics["test"]["num_examples"]
  plan = files.read_json(workdir / "plan.json")
  assert [stage["name"] for stage in plan["stages"]] == ["stem", "block_0", "block_1", "top", "head"]
  assert plan["phases"][0]["learning_rates"] == {"head": 1e-2}
  log = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
  assert log[0].keys() >= {"phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
  assert world["colours"] in (workdir / "report.html").read_text()


def test_the_predictions_are_those_that_the_metrics_count(run):
  metrics, workdir = run()
  with open(workdir / "predictions_test.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == ["id", "label", "prediction", "score", "next_label", "next_score", "prediction_set", "image"]
  assert all(row["image"].endswith(row["id"]) and row["next_label"] != row["prediction"] for row in rows)
  assert all(float(row["next_score"]) <= float(row["score"]) for row in rows)
  assert {row["id"] for row in rows} == ids(workdir, "test") and len(rows) == metrics["test"]["num_examples"]
  assert all(row["id"].startswith(row["label"] + "/") for row in rows)
  assert np.mean([row["label"] == row["prediction"] for row in rows]) == metrics["test"]["accuracy"]
  assert all(1 / 3 <= float(row["score"]) <= 1 for row in rows)


@pytest.mark.parametrize(
  ("backbone", "dataset", "recipe"), [("image", "colours", "full"), ("bert", "reviews", "probe")]
)
def test_config_json_runs_the_run_again_to_the_same_numbers(run, tmp_path, backbone, dataset, recipe):
  first, workdir = run(backbone, dataset, recipe=recipe, epochs=3, seed=7)
  config = config_lib.from_json((workdir / "config.json").read_text())
  second = train_lib.train_and_evaluate(config, tmp_path / "again")
  assert [second[split] for split in ("test", "validation")] == [first[split] for split in ("test", "validation")]
  before, after = weights(workdir), weights(tmp_path / "again")
  assert before.keys() == after.keys() and len(before) > 5
  assert all(np.array_equal(before[name], after[name]) for name in before)
  assert (tmp_path / "again/predictions_test.csv").read_bytes() == (workdir / "predictions_test.csv").read_bytes()
  assert files.read_json(tmp_path / "again/splits.json") == files.read_json(workdir / "splits.json")


def test_another_seed_trains_another_way(run):
  losses = {run("strings", "reviews", head_epochs=2, seed=seed)[0]["test"]["loss"] for seed in (1, 2)}
  assert len(losses) == 2


MIRRORED = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/commands']
import test_train
from tl_app.commands import train
from tl_app.compute import devices as devices_lib
world, root = json.loads(sys.argv[2]), sys.argv[3]
devices_lib.make("mirrored", 2)
for batch_size in (8, 32):
  for strategy, devices in (("single", 0), ("mirrored", 2)):
    flags = {"recipe": "full", "batch_size": batch_size, "head_epochs": 3, "epochs": 2, "feature_cache": "off"}
    config = test_train.configuration(world, strategy=strategy, num_devices=devices, select="fine_tuned", **flags)
    train.train_and_evaluate(config, f"{root}/{batch_size}-{strategy}")
"""


def test_two_devices_give_the_numbers_of_one(world, tmp_path):
  # Devices are chosen before TensorFlow starts, and here in a process without the strategies of other tests.
  done = warm_process.run("-c", MIRRORED, str(pathlib.Path(__file__).parents[1]), json.dumps(world), str(tmp_path))
  assert done.returncode == 0, done.stderr
  for case in (8, 32):
    one, two = tmp_path / f"{case}-single", tmp_path / f"{case}-mirrored"
    assert files.read_json(two / "metrics.json")["environment"]["replicas"] == 2
    phases = files.read_json(two / "plan.json")["phases"]
    assert [phase["name"] for phase in phases] == ["probe", "full"]
    assert all(phase["examples"] % phase["batch_size"] for phase in phases)
    logs = [[json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()] for root in (one, two)]
    assert len(logs[0]) == len(logs[1]) >= 2
    for name in ("loss", "val_loss"):
      np.testing.assert_allclose(*([record[name] for record in log] for log in logs), atol=1e-5)
    before, after = weights(one), weights(two)
    for name in before:
      np.testing.assert_allclose(after[name], before[name], atol=1e-5, err_msg=f"{case} {name}")


def test_max_examples_limits_training_alone(run):
  all_of, at_most = run(head_epochs=2)[1], run(head_epochs=2, max_examples=9)[1]
  assert len(ids(at_most, "train")) == 9 < len(ids(all_of, "train"))
  assert ids(at_most, "test") == ids(all_of, "test") and ids(at_most, "validation") == ids(all_of, "validation")
  assert files.read_json(at_most / "plan.json")["phases"][0]["steps_per_epoch"] == 1


def test_given_validation_and_test_sets_are_used_as_they_are(run, tmp_path):
  test = tiny_data.reviews(tmp_path / "test.csv", n=10, seed=5)
  validation = tiny_data.reviews(tmp_path / "validation.csv", n=12, seed=6)
  metrics, workdir = run(
    "strings", "reviews", head_epochs=2, test_dataset=f"table:{test}", validation_dataset=f"table:{validation}"
  )
  assert (metrics["test"]["num_examples"], metrics["validation"]["num_examples"]) == (10, 12)
  assert ids(workdir, "test") == {f"test_dataset:test.csv:{line}" for line in range(2, 12)}
  assert len(ids(workdir, "train")) == 80


def test_features_are_read_back_and_give_the_same_answers(run, tmp_path, caplog):
  caplog.set_level(logging.INFO, "tl_app")
  store = str(tmp_path / "features")
  first, _ = run("bert", "reviews", feature_cache=store)
  assert "examples read from" not in caplog.text
  second, _ = run("bert", "reviews", feature_cache=store)
  assert "80 of 80 examples read from" in caplog.text and "to do: features of 80 examples, " in caplog.text
  assert second["test"] == first["test"]
  assert len(list((tmp_path / "features").glob("*/rows.f32"))) == 1
  off, workdir = run("bert", "reviews", feature_cache="off")
  assert off["test"]["loss"] == pytest.approx(first["test"]["loss"], abs=1e-5)
  assert len(list((tmp_path / "features").glob("*"))) == 1


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(run, tmp_path):
  with pytest.raises(RunFailed, match="not finite at step [0-9]+ of phase full .epoch [0-9]+.: lower --learning_rate"):
    run(recipe="full", learning_rate=1e30)
  left = {path.name for path in (tmp_path / "run0").iterdir()}
  assert not left & {"metrics.json", "predictions_test.csv", "report.html", "export"}


def test_the_best_epoch_is_kept(run):
  metrics, workdir = run("strings", "shuffled reviews", head_learning_rate=0.1)
  log = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
  losses = [record["val_loss"] for record in log]
  assert min(losses) < losses[-1]
  # The curves are those of the network, before calibration.
  assert metrics["candidates"]["probe"]["loss"] == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.parametrize(
  "flags",
  [
    {"recipe": "full", "epochs": 3},
    # Batch statistics move in the frozen stages too.
    {"recipe": "lp_ft", "epochs": 1, "train_stages": "top:1", "bn": "train"},
  ],
)
def test_if_fine_tuning_breaks_the_model_the_probe_is_selected_as_if_alone(run, flags):
  metrics, workdir = run(**flags, learning_rate=2.0, clip_norm=0.0, ema=0.0, seed=3, export=True)
  assert metrics["candidates"]["fine_tuned"]["accuracy"] < metrics["candidates"]["probe"]["accuracy"]
  assert metrics["selected"] == "probe"
  assert metrics["selection_reason"].startswith(
    "probe: fine-tuning did not help on the validation split (fine-tuned 0."
  )
  found = inspect_run.compare(workdir)
  assert all(stage.identical == stage.variables and stage.moved == 0 for stage in found.stages)
  assert sum(stage.variables for stage in found.stages) == 20
  inspect_run.require_agreement(found)
  alone, probe = run(recipe="probe", seed=3)
  assert [metrics[split] for split in ("test", "validation")] == [alone[split] for split in ("test", "validation")]
  assert (workdir / "predictions_test.csv").read_bytes() == (probe / "predictions_test.csv").read_bytes()


def test_a_backbone_for_the_other_modality_is_refused(run, tmp_path):
  with pytest.raises(UserError, match="reads texts, but --dataset=.* holds images: choose a backbone for images"):
    run("bert", "colours")
  with pytest.raises(UserError, match="reads images, but .* holds texts"):
    run("image", "reviews")
  assert not (tmp_path / "run0").exists()


def test_a_refused_run_leaves_the_finished_one_of_the_same_flags(world, tmp_path):
  data = tiny_data.reviews(tmp_path / "reviews.csv", n=40)
  config = configuration(world, "strings", f"table:{data}", head_epochs=2)
  metrics = train_lib.train_and_evaluate(config, tmp_path / "run")
  pathlib.Path(data).unlink()
  with pytest.raises(UserError, match="reviews.csv"):
    train_lib.train_and_evaluate(config, tmp_path / "run")
  assert files.read_json(tmp_path / "run" / "metrics.json") == metrics
  assert weights(tmp_path / "run")


def test_a_failed_export_check_leaves_a_measured_run_and_no_export(run, tmp_path, monkeypatch):
  honest = saved_model.write

  def perturbed(model, directory):
    model.head.get_layer("logits").bias.assign_add([3.0, 0.0, 0.0])
    honest(model, directory)

  monkeypatch.setattr(saved_model, "write", perturbed)
  with pytest.raises(RunFailed, match="export check: .* no export is left"):
    run(export=True)
  left = {path.name for path in (tmp_path / "run0").iterdir()}
  assert {"metrics.json", "predictions_test.csv"} <= left
  assert not [name for name in left if "export" in name]


def test_features_that_are_not_finite_end_the_run_by_name(world, tmp_path):
  def forward(module, pictures):
    mean = tf.reduce_mean(pictures, [1, 2])
    return (mean / tf.math.reduce_std(pictures, [1, 2, 3])[:, None]) @ module.stem

  pixels = tf.TensorSpec([None, 16, 16, 3], tf.float32)
  module = tiny_modules.custom(tmp_path / "module", forward, pixels)
  colours = tiny_data.colours(tmp_path / "colours", per_class=10)
  first = sorted(pathlib.Path(colours).rglob("*.png"))[0]
  first.with_name("black.png").write_bytes(tf.io.encode_png(np.zeros((16, 16, 3), np.uint8)).numpy())
  with pytest.raises(RunFailed, match=f"the features of {first.parent.name}/black.png are not finite: remove it"):
    config = dataclasses.replace(configuration(world, dataset=f"images:{colours}"), backbone=module)
    train_lib.train_and_evaluate(config, tmp_path / "run")


def test_a_last_step_after_which_nothing_is_finite_is_told(run):
  # One batch: the loss of the step itself is finite.
  with pytest.raises(RunFailed, match="fine_tuned: the logits of the validation split are not finite: lower"):
    run("bert", "reviews", recipe="lp_ft", epochs=1, batch_size=96, head_epochs=2, learning_rate=1e38)


def test_strings_are_not_trained_on_several_devices(run):
  with pytest.raises(UserError, match="Keras cannot train on strings on several devices: pass --strategy=single"):
    run("strings", "reviews", recipe="lp_ft", strategy="mirrored", num_devices=2)
  metrics, _ = run("strings", "reviews", recipe="probe", strategy="mirrored", num_devices=2, head_epochs=5)
  assert metrics["environment"]["replicas"] == 2


def test_a_finished_run_is_measured_on_other_data(run, tmp_path):
  _, workdir = run("strings", "reviews")
  more = pathlib.Path(tiny_data.reviews(tmp_path / "more.csv", n=30, seed=9))
  measured = evaluate.evaluate(workdir, {"dataset": f"table:{more}"}, "")
  assert measured["test"]["num_examples"] == 30 and measured["test"]["accuracy"] >= 0.9
  # The majority class is that of train, not of the test split.
  head, *rows = more.read_text().splitlines(keepends=True)
  answered = []
  for name in ("negative", "positive"):
    (tmp_path / f"{name}.csv").write_text(head + "".join(row for row in rows if row.strip().endswith(name)))
    answered.append(evaluate.evaluate(workdir, {"dataset": f"table:{tmp_path}/{name}.csv"}, "")["majority_accuracy"])
  assert sorted(answered) == [0, 1]
  more = tmp_path / "other.csv"
  more.write_text("text,label\ngood film,splendid\n")
  with pytest.raises(
    UserError, match="other.csv does not fit the model of .*'splendid' is unknown; .* knows: negative, positive"
  ):
    evaluate.evaluate(workdir, {"dataset": f"table:{more}"}, "")
  images = tiny_data.colours(tmp_path / "more", per_class=1)
  with pytest.raises(UserError, match="holds images, but the model of .* reads texts"):
    evaluate.evaluate(workdir, {"dataset": f"images:{images}"}, "")
  with pytest.raises(UserError, match="--output=.*other.csv/here: .*other.csv is a file"):
    evaluate.evaluate(workdir, {}, f"{more}/here")
  with pytest.raises(UserError, match="holds a run, whose metrics.json would be replaced"):
    evaluate.evaluate(workdir, {}, str(workdir))


def test_a_damaged_run_is_refused(run):
  _, workdir = run("strings", "reviews", head_epochs=2)
  weights_file = workdir / "checkpoints" / "model.weights.h5"
  weights_file.write_bytes(weights_file.read_bytes()[:-900])
  with pytest.raises(UserError, match="model.weights.h5 was changed or damaged since tl_app wrote it"):
    evaluate.evaluate(workdir, {}, "")
  # As of an earlier tl_app.
  (workdir / "checksums.json").unlink()
  with pytest.raises(UserError, match="weights.h5 does not fit --backbone=.*: one of them has changed; train again"):
    evaluate.evaluate(workdir, {}, "")
  (workdir / "plan.json").write_text("{")
  with pytest.raises(UserError, match="plan.json is damaged: train again"):
    evaluate.evaluate(workdir, {}, "")
  (workdir / "metrics.json").unlink()
  with pytest.raises(UserError, match="holds no finished run: metrics.json is missing"):
    evaluate.evaluate(workdir, {}, "")


def test_a_run_reads_its_images_from_tfrecord(run, world, tmp_path):
  examples = data.load(configuration(world), Assets(configuration(world).cache_dir))
  with tf.io.TFRecordWriter(str(tmp_path / "colours.tfrecord")) as writer:
    for path, label in zip(examples.inputs.array(), examples.labels):
      example = tf.train.Example()
      example.features.feature["image/encoded"].bytes_list.value.append(pathlib.Path(path).read_bytes())
      example.features.feature["image/class/text"].bytes_list.value.append(label.encode())
      writer.write(example.SerializeToString())
  metrics, _ = run(dataset=f"tfrecord:{tmp_path / 'colours.tfrecord'}", recipe="lp_ft", epochs=2, export=True)
  assert metrics["test"]["accuracy"] >= 0.9
  assert metrics["parity"]["label_flips"] == 0
