"""--max_minutes: what of a phase fits into the time, how phases keep to it, and a run that does."""

import dataclasses
import time

import numpy as np
import pytest
import tiny_data
import tiny_features
import tiny_presets

from tl_app import backbones, files
from tl_app.assets import cache_root
from tl_app.backbones import weights
from tl_app.commands import evaluate, inspect_run, train
from tl_app.config import Config
from tl_app.features import frozen
from tl_app.features.frozen import Features
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import image_size, phases, planning, precision, time_budget, time_limit
from tl_app.training.batch_size import BatchSize
from tl_app.training.compiling import PhaseSteps
from tl_app.training.time_limit import TimeLimit
from tl_app.workdir import Record, Workdir

FACTS = Facts(3200, 2, 1e-4, {"embeddings": ("e/table",), "layer_0": ("a/kernel",)})
PHASE = recipes.plan(Config(epochs=3), FACTS)[-1]  # 3 epochs of 100 steps
# Stage c has nothing that trains.
WIDE = PHASE.replace(train_stages=("a", "b", "c", "d", "e", "head"))
TRAINED = ("a", "b", "d", "e")


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
  assert (left and (left.schedule.epochs, left.schedule.steps_per_epoch)) == expected
  if left:
    assert left.schedule.warmup_steps == pytest.approx(Config().warmup * left.schedule.steps, abs=1)
    assert (left is PHASE) == (expected == (3, 100))


def test_small_phases_may_have_few_steps():
  small = recipes.plan(Config(epochs=5), Facts(64, 2, 1e-4, FACTS.stages))[-1]
  assert time_budget.shorten(small, 1.0, 4.5, 0).schedule.epochs == 2
  assert time_budget.shorten(small, 1.0, 1.5, 0) is None
  # Of three batches that make one update, two make none.
  every_third = PHASE.replace(steps_per_epoch=2, accumulate_steps=3)
  assert time_budget.shorten(every_third, 1.0, 4.5, 0).schedule.epochs == 2
  assert time_budget.shorten(every_third, 1.0, 3.5, 0) is None


def test_phases_share_the_time_that_the_end_of_the_run_leaves():
  alone = time_budget.seconds_left(600, step_seconds=3.0, closing_batches=20, export=False, phases=1)
  assert alone == 600 - 20 - time_budget.CLOSING_SECONDS[False]
  assert time_budget.seconds_left(600, 3.0, 20, False, 3) == pytest.approx(alone / 3)
  assert time_budget.seconds_left(600, 3.0, 20, True, 1) < alone


def test_the_limit_counts_the_batches_that_are_answered_after_a_phase(monkeypatch):
  data = tiny_features.data(np.full((1, 210), 3), tiny_features.model().backbone)
  # Of batches of 32 these are 4, 2 and 3.
  train_rows, validation, test = np.split(np.arange(210), [100, 140])
  data = dataclasses.replace(
    data, split=dataclasses.replace(data.split, train=train_rows, validation=validation, test=test)
  )
  contrastive = recipes.plan(Config(recipe="contrastive", batch_size=16), FACTS)[1]
  assert contrastive.inputs.batch_size == 32
  monkeypatch.setattr(time_limit.time, "monotonic", lambda: 400.0)
  limit, exporting = (TimeLimit(deadline=1000.0, max_minutes=10.0, export=export) for export in (False, True))
  assert limit.seconds_left() == exporting.seconds_left() == 600
  for each, closing in zip((limit, exporting), time_budget.CLOSING_SECONDS.values()):
    for late in (False, True):
      monkeypatch.setattr(time_limit.time, "monotonic", lambda now=1000 - closing + (1 if late else -1): now)
      assert each.is_over() == late
  monkeypatch.setattr(time_limit.time, "monotonic", lambda: 400.0)
  seconds = 600 - time_budget.CLOSING_SECONDS[False]
  # Steps of 3 s answer a batch in 1 s: validation twice, test once; after a contrastive phase the training split too.
  assert limit.seconds_for(PHASE, 3.0, data, 1) == pytest.approx(seconds - 7)
  assert limit.seconds_for(contrastive, 3.0, data, 1) == pytest.approx(seconds - 11)
  assert limit.seconds_for(PHASE, 3.0, data, 2) == pytest.approx((seconds - 7) / 2)
  assert limit.shorten(PHASE, 3.0, data, 1) == time_budget.shorten(PHASE, 3.0, seconds - 7, 2)
  assert limit.shorten(PHASE, 3.0, data, 1).schedule.epochs == 1
  assert limit.shorten(PHASE, 300.0, data, 1) is None


def test_fewer_stages_are_the_upper_ones():
  names = [fewer.trains.train_stages for fewer in time_budget.fewer_stages(WIDE, TRAINED)]
  assert names == [("d", "e", "head"), ("e", "head")]
  assert not list(time_budget.fewer_stages(WIDE, ["e"]))


def _fit_into(seconds, step_seconds_of_fewer=(), trained=TRAINED):
  """Fits `WIDE`, whose steps take 1 s, into `seconds`.

  Args:
    seconds: for the phase.
    step_seconds_of_fewer: seconds of a step of each phase with fewer stages that is measured, in order.
    trained: names of the stages that have something to train.

  Returns:
    (what `time_limit.fit_into` returns, [stages of each phase that was measured]).
  """
  measured = []

  def measure(phase):
    measured.append(phase.trains.train_stages)
    return step_seconds_of_fewer[len(measured) - 1]

  def shorten(phase, step_seconds):
    return time_budget.shorten(phase, step_seconds, seconds, validation_batches=0)

  return time_limit.fit_into(WIDE, 1.0, trained, shorten, measure), measured


@pytest.mark.parametrize(("seconds", "epochs"), [(300, 3), (250, 2), (100, 1)])
def test_a_phase_with_a_whole_epoch_keeps_its_stages(seconds, epochs):
  done, measured = _fit_into(seconds)
  assert done.trains == WIDE.trains and measured == []
  assert (done.schedule.epochs, done.schedule.steps_per_epoch) == (epochs, 100)
  assert (done is WIDE) == (epochs == 3)


@pytest.mark.parametrize(
  ("step_seconds", "stages", "epochs", "steps"),
  [
    # The upper half has a second epoch: it keeps all of them, since its own steps are measured next.
    ((0.25,), ("d", "e", "head"), 3, 100),
    ((0.4,), ("d", "e", "head"), 3, 100),
    ((0.8,), ("d", "e", "head"), 1, 100),
    # Only the top stage has an epoch.
    ((1.0, 0.3), ("e", "head"), 3, 100),
    # Not even the top stage has one: a part of it.
    ((1.0, 0.95), ("e", "head"), 1, 94),
    # The top stage has nothing: the part of an epoch of all stages.
    ((1e6, 1e6), WIDE.trains.train_stages, 1, 90),
  ],
)
def test_upper_stages_train_if_no_epoch_of_all_stages_fits(step_seconds, stages, epochs, steps):
  done, measured = _fit_into(90, step_seconds)
  assert done.trains.train_stages == stages
  assert (done.schedule.epochs, done.schedule.steps_per_epoch) == (epochs, steps)
  assert measured == [("d", "e", "head"), ("e", "head")][: len(step_seconds)]


def test_only_the_top_stage_is_measured_if_even_forward_passes_are_too_slow():
  done, measured = _fit_into(30, (0.2,))
  assert measured == [("e", "head")] and done.trains.train_stages == ("e", "head")
  assert _fit_into(10, (1e6,)) == (None, [("e", "head")])


def test_a_single_stage_is_not_divided():
  done, measured = _fit_into(90, trained=("e",))
  assert measured == [] and done.trains == WIDE.trains
  assert (done.schedule.epochs, done.schedule.steps_per_epoch) == (1, 90)
  assert _fit_into(10, trained=("e",)) == (None, [])


@pytest.mark.parametrize(
  ("done", "message"),
  [
    (None, "no training step fits"),
    (WIDE.replace(epochs=2), "2 x 100 steps in place of 3 x 100"),
    (
      WIDE.replace(train_stages=("d", "e", "head")),
      "no epoch of all its stages fits; d, e train, the stages below stay frozen",
    ),
  ],
)
def test_the_log_says_what_is_left_of_a_phase(done, message, caplog):
  time_limit.report(TimeLimit(0.0, 10.0, False), WIDE, done, seconds=-3.0, step_seconds=1.5)
  assert caplog.messages == [f"--max_minutes=10: phase fine_tune has 0 s at 1.50 s a step: {message}"]


def _prepare(config, directory, limit=None):
  """Returns the (`Features`, `Plan`) of a run that has not begun to train."""
  directory.mkdir()
  return train.prepare(config, backbones.resolve(config.backbone), Record(Workdir(directory)), recipes.plan, limit)


def _limit(minutes):
  return TimeLimit(time.monotonic() + 60 * minutes, minutes, export=False)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  return tiny_presets.reviews_run(tmp_path_factory.mktemp("time_limit")) | {
    "head_epochs": 3,
    "learning_rate": 3e-3,
    "export": False,
  }


@pytest.fixture(scope="module")
def loaded(flags, tmp_path_factory):
  return _prepare(Config(**flags), tmp_path_factory.mktemp("loaded") / "run")[0]


@dataclasses.dataclass
class Trained:
  """What the phases of a run have done.

  Attributes:
    features: the `Features`.
    candidates: the `Candidate`s.
    plan: the phases in plan.json.
    record: the `Record`.
  """

  features: Features
  candidates: list
  plan: list
  record: Record

  @property
  def names(self):
    """The names of the candidates."""
    return [candidate.name for candidate in self.candidates]


@pytest.fixture
def train_phases(flags, loaded, tmp_path):
  """Returns a function, (minutes, flags) -> `Trained`, which trains the phases of a recipe; the model is then reset."""
  values = weights.values(loaded.model.network.variables)

  def run(minutes, **own):
    config, record = Config(**flags | own), Record(Workdir(tmp_path))
    features = Features(
      *(
        loaded.model,
        loaded.data,
        loaded.devices,
        frozen.store(config.machine, cache_root(config.cache_dir)),
        loaded.batch_size,
        record.clock,
      )
    )
    planned = planning.plan_phases(config, loaded.data, loaded.model, loaded.devices, recipes.plan)
    plan = planning.make("", {}, planned, BatchSize(loaded.batch_size), loaded.data, loaded.model)
    candidates, results = phases.train(planned, features, config, record, _limit(minutes))
    return Trained(features, candidates, plan.with_results(results, loaded.model).to_json()["phases"], record)

  yield run
  for variable, value in zip(loaded.model.network.variables, values):
    variable.assign(value)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("whole_network", "names"),
  [
    # Two epochs would fit without stored trunk features: these are computed, and then 100 s a step leave one.
    (10.0, ["trunk_tail_head", "tail_head", "tail_head"]),
    # One epoch fits: computing them would take the time of that one.
    (100.0, ["trunk_tail_head"] * 3),
  ],
)
def test_trunk_features_are_stored_if_a_second_epoch_reads_them(
  train_phases, tmp_path, monkeypatch, whole_network, names
):
  seen, compile_steps = [], PhaseSteps.compile

  def spy(steps, *args, **kwargs):
    seen.append(steps.network.name)
    compile_steps(steps, *args, **kwargs)

  def measure(policy, steps, *_, **__):
    seen.append(steps.network.name)
    return (whole_network if steps.network.name == "trunk_tail_head" else 100.0), 1.0, 0.0

  monkeypatch.setattr(precision, "measure", measure)
  monkeypatch.setattr(PhaseSteps, "compile", spy)
  trained = train_phases(8.0, epochs=9, train_stages="top:1", ema=0.0, feature_cache=str(tmp_path / "features"))
  assert trained.plan[1]["epochs"] == 1
  assert seen == ["head", *names]
  assert sum(trained.record.seconds.values()) < 8 * 60


@pytest.mark.slow
def test_steps_that_take_longer_than_measured_end_in_time(train_phases, monkeypatch, caplog):
  monkeypatch.setattr(precision, "measure", lambda *_, **__: (1e-6, 1.0, 0.0))
  monkeypatch.setattr(time_budget, "seconds_left", lambda *_: 1e6)
  trained = train_phases(0.01, epochs=50)
  assert "steps took longer than measured; the phase ends after batch 1" in caplog.text
  assert trained.record.paths.log.read_text().count('"phase": "fine_tune"') == 1
  assert "fine_tuned" in trained.names


@pytest.mark.slow
def test_measuring_fewer_stages_leaves_the_phase_as_it_was(train_phases, monkeypatch, caplog):
  """If not even the top stage fits, a part of an epoch of all stages is trained."""
  caplog.set_level("INFO")
  counts = []

  def measure(policy, steps, *_, **__):
    counts.append(len(steps.network.trainable_variables))
    return (7.0 if counts[-1] == counts[0] else 1e6), 1.0, 0.0

  monkeypatch.setattr(precision, "measure", measure)
  trained = train_phases(8.0, batch_size=1, epochs=2)
  phase = trained.plan[1]
  assert min(counts) < counts[0] and "planned_stages" not in phase
  assert (phase["epochs"], phase["planned_epochs"]) == (1, 2) and phase["steps_per_epoch"] < 58
  assert "fine_tuned" in trained.names


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "name"), [("lp_ft", "fine_tune"), ("full", "full")])
def test_the_plan_and_the_audit_name_the_upper_stages(train_phases, caplog, monkeypatch, recipe, name):
  caplog.set_level("INFO")
  counts = []

  def measure(policy, steps, *_, **__):
    counts.append(len(steps.network.trainable_variables))
    # No step of all stages fits, and all epochs of the upper ones.
    return (450.0 if counts[-1] == max(counts) else 0.1), 1.0, 0.0

  monkeypatch.setattr(precision, "measure", measure)
  trained = train_phases(10.0, epochs=2, recipe=recipe)
  phase = trained.plan[1]
  planned, stages = phase["planned_stages"], phase["train_stages"]
  assert 0 < len(stages) < len(planned) and stages == planned[-len(stages) :]
  assert phase["epochs"] == phase["planned_epochs"] == 2
  assert tuple(row["name"] for row in phase["stages"] if row["trainable"]) == stages
  assert f"--max_minutes=10: phase {name} has" in caplog.text and "train, the stages below stay frozen" in caplog.text
  assert "fine_tuned" in trained.names
  (audit,) = (line for line in caplog.messages if line.startswith(f"audit of phase {name}: changed variables: "))
  changed = [part.split()[0] for part in audit.split(": ")[2].split(";")[0].split(", ")]
  assert tuple(changed) == stages


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["full", "contrastive"])
def test_without_time_the_probe_is_selected(train_phases, caplog, recipe):
  caplog.set_level("INFO")
  trained = train_phases(0.01, epochs=3, recipe=recipe)
  # Nothing was fine-tuned, so there is no such candidate.
  assert trained.names == ["probe"]
  baselines = phases.baselines(trained.features, trained.candidates[0])
  assert set(baselines) == {"majority_class", "nearest_neighbours", "tf_idf"}
  assert phases.select(trained.candidates, baselines, trained.features, Config()).best.name == "probe"
  assert "no training step fits" in caplog.text
  assert trained.plan[1]["epochs"] == 0
  assert not [line for line in caplog.messages if line.startswith(("refit", "audit of phase refit"))]


@pytest.mark.slow
def test_a_run_is_shortened_and_says_so(flags, tmp_path, caplog, monkeypatch):
  def measure(policy, steps, *_, **__):
    # 100 s a step leave four of them, two epochs of two with their validation.
    return (100.0 if steps.phase.name == "unfreeze_1" else 1e6), 1.0, 0.0

  monkeypatch.setattr(precision, "measure", measure)
  own = {"epochs": 400, "max_minutes": 25.0, "recipe": "gradual", "train_stages": "top:2", "export": True}
  metrics = train.train_and_evaluate(Config(**flags | own), tmp_path / "run")
  _, first, second = files.read_json(tmp_path / "run" / "plan.json")["phases"]
  assert (first["planned_epochs"], first["epochs"]) == (200, 2)
  assert (second["planned_epochs"], second["epochs"]) == (200, 0)
  log = (tmp_path / "run" / "log.jsonl").read_text()
  assert log.count('"phase": "unfreeze_1"') == first["epochs"] and '"phase": "unfreeze_2"' not in log
  assert "--max_minutes=25: phase unfreeze_1 has" in caplog.text
  # The averaged weights, and the export, are those of the phase before the one that had no time.
  assert set(metrics["candidates"]) == {
    "majority_class",
    "nearest_neighbours",
    "tf_idf",
    "probe",
    "fine_tuned",
    "averaged",
  }
  # Files without checksums are read as they are.
  (tmp_path / "run" / "checksums.json").unlink()
  files.write_json(
    tmp_path / "run" / "metrics.json", metrics | {"selected_candidate": "fine_tuned", "selected_phase": "unfreeze_1"}
  )
  found = {
    stage.name: stage for stage in inspect_run.compare(tmp_path / "run", {"cache_dir": flags["cache_dir"]}).stages
  }
  assert found["embeddings"].planned == 0 and found["layer_0"].planned > 0


@pytest.mark.parametrize(
  ("size", "seconds", "expected"), [(224, 100, 224), (224, 101, 192), (224, 200, 128), (224, 9999, 128), (64, 300, 32)]
)
def test_images_are_as_large_as_the_time_allows(size, seconds, expected):
  assert image_size.smaller(size, seconds, limit=100) == expected


@pytest.fixture(scope="module")
def image_config(tmp_path_factory):
  root = tmp_path_factory.mktemp("images")
  return Config(
    backbone=tiny_presets.resnet(root / "resnet"),
    dataset="images:" + tiny_data.colours(root / "colours"),
    cache_dir=str(root / "cache"),
    recipe="probe",
    head_epochs=3,
  )


@pytest.mark.slow
def test_a_finished_run_keeps_the_size_of_its_images(image_config, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(image_size, "MIN_IMAGES", 1)
  monkeypatch.setattr(image_size, "_seconds_per_image", lambda features: 3.0)
  config = dataclasses.replace(image_config, max_minutes=9.0)
  metrics = train.train_and_evaluate(config, tmp_path / "run")
  # 60 images of 3 s; 30 % of 540 s.
  assert (
    "images are resized to 32 x 32 pixels instead of 64 x 64, for which the features alone would take 180 of"
    in caplog.text
  )
  assert files.read_json(tmp_path / "run" / "plan.json")["preprocessing"] == {"image_size": 32}
  assert metrics["parity"]["label_flips"] == 0
  again = evaluate.evaluate(tmp_path / "run", {}, "")
  assert again["test"]["loss"] == pytest.approx(metrics["test"]["loss"], abs=1e-6)
  # The stored features of the smaller images are not those of the full ones, which would take as long as before.
  features, plan = _prepare(dataclasses.replace(config, image_size=64), tmp_path / "full", _limit(9.0))
  assert plan.preprocessing == {"image_size": 64}
  features.frozen()
  caplog.clear()
  _, plan = _prepare(config, tmp_path / "stored", _limit(9.0))
  assert plan.preprocessing == {"image_size": 64}
  assert "instead of" not in caplog.text


@pytest.fixture(scope="module")
def image_features(image_config, tmp_path_factory):
  config = dataclasses.replace(image_config, feature_cache="off")
  return config, _prepare(config, tmp_path_factory.mktemp("images") / "run")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "examples"), [("auto", 8), (32, 64)])
def test_images_are_measured_in_a_batch_that_memory_holds(image_features, tmp_path, monkeypatch, size, examples):
  config, features = image_features
  seen = []
  monkeypatch.setattr(image_size, "MIN_IMAGES", 1)
  monkeypatch.setattr(Features, "predict", lambda own, network, rows: seen.append((len(rows), own.batch_size)))
  config, spec = dataclasses.replace(config, batch_size=size), backbones.resolve(config.backbone)
  record = Record(Workdir(tmp_path))
  model = image_size.with_smaller_images(config, spec, None, features, _limit(9.0), record)
  assert seen == [(examples, examples)] * 2
  assert model is features.model
