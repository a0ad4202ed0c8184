"""--max_minutes: what is left of a phase, and a run that keeps to it."""

import dataclasses
import types

import numpy as np
import pytest
import tiny_data
import tiny_presets

from tl_app import files
from tl_app.commands import finished_run, inspect_run, train
from tl_app.compute import precision, time_budget
from tl_app.config import Config, Facts
from tl_app.features import session
from tl_app.recipes import recipes
from tl_app.training import fit, image_size

FACTS = Facts(3200, 2, 1e-4, {"embeddings": ("e/table",), "layer_0": ("a/kernel",)})
PHASE = recipes.plan(Config(epochs=3), FACTS)[-1]  # 3 epochs of 100 steps


@pytest.mark.parametrize(
  ("seconds", "expected"),
  [
    (10_000, (3, 100)),
    (360, (3, 100)),  # an epoch is 100 steps and 60 thirds of one
    (359, (2, 100)),
    (121, (1, 100)),
    (119, (1, 99)),
    (60, (1, 40)),
    (39, None),
    (-5, None),
  ],
)
def test_whole_epochs_first_then_a_part_of_one(seconds, expected):
  left = time_budget.shorten(PHASE, step_seconds=1.0, seconds=seconds, validation_batches=60)
  assert (left and (left.epochs, left.steps_per_epoch)) == expected
  if left:
    assert left.warmup_steps == pytest.approx(recipes.WARMUP * left.steps, abs=1)
    assert (left is PHASE) == (expected == (3, 100))


def test_small_phases_need_not_have_many_steps():
  small = recipes.plan(Config(epochs=5), Facts(64, 2, 1e-4, FACTS.stages))[-1]
  assert time_budget.shorten(small, 1.0, 4.5, 0).epochs == 2
  assert time_budget.shorten(small, 1.0, 1.5, 0) is None
  # Of three batches that make one update, two make none.
  every_third = dataclasses.replace(PHASE, steps_per_epoch=2, accumulate_steps=3)
  assert time_budget.shorten(every_third, 1.0, 4.5, 0).epochs == 2
  assert time_budget.shorten(every_third, 1.0, 3.5, 0) is None


def test_phases_share_what_the_end_leaves():
  alone = time_budget.seconds_left(deadline=1000, now=400, step_seconds=3.0, closing_batches=20, export=False, phases=1)
  assert alone == 600 - 20 - time_budget.CLOSING_SECONDS[False]
  assert time_budget.seconds_left(1000, 400, 3.0, 20, False, 3) == pytest.approx(alone / 3)
  assert time_budget.seconds_left(1000, 400, 3.0, 20, True, 1) < alone


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return tiny_presets.reviews_run(tmp_path_factory.mktemp("budget")) | {
    "head_epochs": 3,
    "learning_rate": 3e-3,
    "export": False,
  }


@pytest.mark.slow
def test_a_run_is_cut_and_says_so(config, tmp_path, caplog, monkeypatch):
  # 100 s a step leave five of them, two epochs of two with what validates them.
  monkeypatch.setattr(precision, "measure", lambda *_, **__: (100.0, 1.0))
  metrics = train.train_and_evaluate(Config(**config, epochs=500, max_minutes=10.0), tmp_path / "run")
  phase = files.read_json(tmp_path / "run" / "plan.json")["phases"][1]
  assert phase["planned_epochs"] == 500
  assert phase["epochs"] == 2
  log = (tmp_path / "run" / "log.jsonl").read_text()
  assert log.count('"phase": "fine_tune"') == phase["epochs"]
  assert set(metrics["candidates"]) == {"majority_class", "nearest_neighbours", "probe", "fine_tuned", "averaged"}
  assert "--max_minutes=10: phase fine_tune has" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
  ("online", "names"),
  [
    # Two epochs would fit without the stored trunk: it is made, and then 100 s a step leave one.
    (10.0, ["trunk_tail_head", "tail_head", "tail_head"]),
    # One does: making it would take the time of that one.
    (100.0, ["trunk_tail_head"] * 3),
  ],
)
def test_the_trunk_is_stored_where_a_second_epoch_reads_it(config, tmp_path, monkeypatch, online, names):
  seen, compile_for = [], fit.compile_for

  def spy(network, *args, **kwargs):
    seen.append(network.name)
    compile_for(network, *args, **kwargs)

  def seconds(way, network, *_, **__):
    seen.append(network.name)
    return (online if network.name == "trunk_tail_head" else 100.0), 1.0

  monkeypatch.setattr(precision, "measure", seconds)
  monkeypatch.setattr(fit, "compile_for", spy)
  flags = {"epochs": 9, "max_minutes": 7.0, "train_stages": "top:1", "ema": 0.0, "feature_cache": str(tmp_path)}
  metrics = train.train_and_evaluate(Config(**config, **flags), tmp_path / "run")
  assert files.read_json(tmp_path / "run" / "plan.json")["phases"][1]["epochs"] == 1
  assert seen == ["head", *names]
  assert sum(metrics["seconds"].values()) < 7 * 60


@pytest.mark.slow
def test_steps_that_take_longer_than_measured_end_in_time(config, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(precision, "measure", lambda *_, **__: (1e-6, 1.0))
  monkeypatch.setattr(time_budget, "seconds_left", lambda *_: 1e6)
  metrics = train.train_and_evaluate(Config(**config, epochs=50, max_minutes=0.01), tmp_path / "run")
  assert "its steps took longer than measured; the phase ends after batch 1" in caplog.text
  log = (tmp_path / "run" / "log.jsonl").read_text()
  assert log.count('"phase": "fine_tune"') == 1
  assert "fine_tuned" in metrics["candidates"]


def test_clocks_within_a_clock_are_counted_once(monkeypatch):
  run = types.SimpleNamespace(seconds={"train": 1.0, "features": 0.0}, counted=0.0)
  moments = iter([0.0, 10.0, 40.0, 50.0, 60.0, 65.0])
  monkeypatch.setattr(session.time, "monotonic", lambda: next(moments))
  with session.Session.clock(run, "train"), session.Session.clock(run, "features"):
    pass
  with session.Session.clock(run, "features"):
    pass
  assert run.seconds == {"train": 21.0, "features": 35.0}


def test_fewer_stages_are_the_upper_ones():
  phase = dataclasses.replace(PHASE, train_stages=("a", "b", "c", "d", "e", "head"))
  names = [fewer.train_stages for fewer in time_budget.fewer_stages(phase, ["a", "b", "d", "e"])]
  assert names == [("d", "e", "head"), ("e", "head")]
  assert not list(time_budget.fewer_stages(phase, ["e"]))


@pytest.mark.slow
def test_measuring_fewer_stages_leaves_the_phase_as_it_was(config, tmp_path, monkeypatch, caplog):
  """Where not even the top stage fits any more, the part of an epoch of all stages that did is trained."""
  caplog.set_level("INFO")
  counts = []

  def seconds(way, network, *_, **__):
    counts.append(len(network.trainable_variables))
    return (7.0 if counts[-1] == counts[0] else 1e6), 1.0

  monkeypatch.setattr(precision, "measure", seconds)
  flags = {"batch_size": 1, "epochs": 2, "max_minutes": 8.0}
  metrics = train.train_and_evaluate(Config(**config, **flags), tmp_path / "run")
  tuned = files.read_json(tmp_path / "run" / "plan.json")["phases"][1]
  assert min(counts) < counts[0] and "planned_stages" not in tuned
  assert (tuned["epochs"], tuned["planned_epochs"]) == (1, 2) and tuned["steps_per_epoch"] < 58
  assert "fine_tuned" in metrics["candidates"]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "phase"), [("lp_ft", "fine_tune"), ("full", "full")])
def test_where_no_epoch_of_all_stages_fits_upper_ones_train(config, tmp_path, caplog, monkeypatch, recipe, phase):
  caplog.set_level("INFO")
  everything = []

  def seconds(way, network, *_, **__):
    count = len(network.trainable_variables)
    everything.append(count)
    # All stages leave a part of an epoch, the upper ones all epochs.
    return (450.0 if count == max(everything) else 0.1), 1.0

  monkeypatch.setattr(precision, "measure", seconds)
  flags = {"epochs": 2, "max_minutes": 10.0, "recipe": recipe}
  metrics = train.train_and_evaluate(Config(**config, **flags), tmp_path / "run")
  probe, tuned = files.read_json(tmp_path / "run" / "plan.json")["phases"]
  names = tuned["planned_stages"]
  assert 0 < len(tuned["train_stages"]) < len(names) and tuned["train_stages"] == names[-len(tuned["train_stages"]) :]
  assert tuned["epochs"] == tuned["planned_epochs"] == 2
  trained = [row["name"] for row in tuned["stages"] if row["trainable"]]
  assert trained == tuned["train_stages"]
  assert f"--max_minutes=10: phase {phase} has" in caplog.text and "train, the stages below stay frozen" in caplog.text
  assert "fine_tuned" in metrics["candidates"]
  (audit,) = (line for line in caplog.messages if line.startswith(f"audit of phase {phase}: changed variables: "))
  changed = [part.split()[0] for part in audit.split(": ")[2].split(";")[0].split(", ")]
  assert changed == trained


@pytest.mark.parametrize(
  ("size", "seconds", "expected"), [(224, 100, 224), (224, 101, 192), (224, 200, 128), (224, 9999, 128), (64, 300, 32)]
)
def test_images_shrink_by_as_much_as_the_time_asks(size, seconds, expected):
  assert image_size.smaller(size, seconds, limit=100) == expected


@pytest.mark.slow
def test_a_finished_run_remembers_that_its_images_were_smaller(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(image_size, "LEAST_IMAGES", 1)
  monkeypatch.setattr(image_size, "_seconds_an_image", lambda run: 3.0)
  flags = {
    "backbone": tiny_presets.resnet(tmp_path / "resnet"),
    "dataset": "images:" + tiny_data.colours(tmp_path / "c"),
  }
  config = Config(**flags, cache_dir=str(tmp_path / "cache"), recipe="probe", head_epochs=3, max_minutes=9.0)
  metrics = train.train_and_evaluate(config, tmp_path / "run")
  # 60 images of 3 s; 30 % of 540 s.
  assert "images of 32 x 32 pixels in place of 64 x 64, whose features alone would take 180 s" in caplog.text
  assert files.read_json(tmp_path / "run" / "plan.json")["preprocessing"] == {"image_size": 32}
  assert metrics["parity"]["label_flips"] == 0
  again = finished_run.evaluate(tmp_path / "run", {}, "")
  assert again["test"]["loss"] == pytest.approx(metrics["test"]["loss"], abs=1e-6)
  # What is stored of the smaller ones says nothing of the full ones, which would take as long as before.
  train.train_and_evaluate(dataclasses.replace(config, image_size=64, export=False), tmp_path / "full")
  assert files.read_json(tmp_path / "full" / "plan.json")["preprocessing"] == {"image_size": 64}
  caplog.clear()
  train.train_and_evaluate(dataclasses.replace(config, export=False), tmp_path / "stored")
  assert files.read_json(tmp_path / "stored" / "plan.json")["preprocessing"] == {"image_size": 64}
  assert "in place of" not in caplog.text


@pytest.mark.parametrize(("size", "taken"), [("auto", 8), (32, 64)])
def test_images_are_measured_in_a_batch_that_surely_fits(monkeypatch, size, taken):
  seen = []
  monkeypatch.setattr(session, "predict", lambda run, network, sample: seen.append(len(sample)))
  monkeypatch.setattr(session, "inference_batch", lambda run: 64)
  run = types.SimpleNamespace(
    config=Config(batch_size=size),
    split=types.SimpleNamespace(train=np.arange(100)),
    model=types.SimpleNamespace(features=None),
  )
  image_size._seconds_an_image(run)
  assert seen == [taken, taken]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["full", "contrastive"])
def test_without_time_the_probe_ships(config, tmp_path, caplog, recipe):
  caplog.set_level("INFO")
  flags = {"epochs": 3, "max_minutes": 0.01, "recipe": recipe}
  metrics = train.train_and_evaluate(Config(**config, **flags), tmp_path / "run")
  assert metrics["selected"] == "probe"
  # Nothing was fine-tuned: there is no rung of it.
  assert set(metrics["candidates"]) == {"majority_class", "nearest_neighbours", "probe"}
  assert "nothing is left of it" in caplog.text
  assert files.read_json(tmp_path / "run" / "plan.json")["phases"][1]["epochs"] == 0
  assert not [line for line in caplog.messages if line.startswith(("refit", "audit of phase refit"))]


@pytest.mark.slow
def test_averages_and_proof_of_the_phases_before_one_that_is_cut(config, tmp_path, monkeypatch):
  whole = time_budget.shorten
  monkeypatch.setattr(time_budget, "shorten", lambda phase, *rest: None if phase.name == "unfreeze_2" else phase)
  flags = {"epochs": 4, "max_minutes": 60.0, "recipe": "gradual", "train_stages": "top:2", "export": True}
  metrics = train.train_and_evaluate(Config(**config | flags), tmp_path / "run")
  monkeypatch.setattr(time_budget, "shorten", whole)
  assert set(metrics["candidates"]) == {"majority_class", "nearest_neighbours", "probe", "fine_tuned", "averaged"}
  files.write_json(
    tmp_path / "run" / "metrics.json", metrics | {"selected": "fine_tuned", "selected_phase": "unfreeze_1"}
  )
  found = {stage.name: stage for stage in inspect_run.compare(tmp_path / "run", config["cache_dir"]).stages}
  assert found["layer_1"].planned == 0 and found["layer_2"].planned > 0
