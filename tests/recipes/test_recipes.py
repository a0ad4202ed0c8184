"""Recipes are pure functions; a plan is read without TensorFlow."""

import collections
import dataclasses
import json
import subprocess
import sys

import pytest

from tl_app.config import Config
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.recipes import recipes, train_stages
from tl_app.recipes.facts import Facts
from tl_app.recipes.phase import BIAS_NORM, KERNELS, Phase
from tl_app.training.phase_rules import flags_without_effect

STAGES = {
  "embeddings": ("word_embeddings/embeddings", "embeddings/layer_norm/gamma"),
  "layer_0": ("layer_0/query/kernel", "layer_0/query/bias"),
  "layer_1": ("layer_1/query/kernel", "layer_1/query/bias"),
}
FACTS = Facts(num_train=100, num_classes=3, learning_rate=1e-4, stages=STAGES, few_steps=150)


def _plan(facts=FACTS, devices=1, **flags):
  return recipes.plan(Config(**flags), facts, devices)


def test_probe_trains_the_head_alone():
  (phase,) = _plan(recipe="probe", head_epochs=7, batch_size=32)
  assert phase.trains.train_stages == ("head",)
  assert not phase.trains_backbone
  assert (phase.schedule.epochs, phase.schedule.steps_per_epoch, phase.schedule.steps) == (7, 4, 28)
  assert phase.schedule.warmup_steps == 3


def test_lp_ft_is_the_default_and_starts_from_the_probe():
  probe, fine_tune = _plan()
  assert probe == _plan(recipe="probe")[0]
  assert fine_tune.trains.train_stages == ("embeddings", "layer_0", "layer_1", "head")
  assert not fine_tune.trains.reset_head


def test_random_weights_train_whole_and_longer():
  config, facts = Config(layer_decay=0.5), dataclasses.replace(FACTS, pretrained=False)
  assert recipes.plan(config, FACTS) == recipes.plan(dataclasses.replace(config, recipe="lp_ft"), FACTS)
  assert recipes.plan(config, facts) == recipes.plan(dataclasses.replace(config, recipe="full"), facts)
  phase = recipes.plan(config, facts)[-1]
  assert phase.trains.reset_head and phase.trains.train_stages == (*STAGES, "head")
  assert set(phase.optimizer.learning_rates.values()) == {FACTS.learning_rate, recipes.HEAD_RATE}
  pretrained = recipes.plan(config, FACTS)[-1]
  assert (phase.trains.bn, pretrained.trains.bn) == ("train", "frozen")
  assert phase.schedule.epochs > pretrained.schedule.epochs
  assert recipes.plan(dataclasses.replace(config, bn="frozen", epochs=3), facts)[-1].trains.bn == "frozen"


def test_full_starts_from_a_new_head_at_its_own_learning_rate():
  probe, full = _plan(recipe="full", learning_rate=2e-5, head_learning_rate=5e-4, layer_decay=1.0)
  assert probe.name == "probe"
  assert full.trains.reset_head
  assert full.optimizer.learning_rates == {"embeddings": 2e-5, "layer_0": 2e-5, "layer_1": 2e-5, "head": 5e-4}
  with pytest.raises(UserError, match="--recipe=full trains a new head: remove --freeze_head"):
    _plan(recipe="full", train_stages="layer_1", freeze_head=True)


def test_gradual_unfreezes_from_the_top_one_more_a_phase():
  phases = _plan(recipe="gradual", epochs=7)
  assert [phase.trains.train_stages for phase in phases] == [
    ("head",),
    ("layer_1", "head"),
    ("layer_0", "layer_1", "head"),
    ("embeddings", "layer_0", "layer_1", "head"),
  ]
  assert [phase.schedule.epochs for phase in phases[1:]] == [2, 2, 3]


def test_stages_that_cannot_train_take_no_part():
  """As the pooler of a BERT whose tokens are averaged."""
  facts = dataclasses.replace(FACTS, stages=STAGES | {"pooler": ()})
  assert [phase.trains.train_stages for phase in _plan(facts, recipe="gradual", epochs=7)[1:]] == [
    ("layer_1", "pooler", "head"),
    ("layer_0", "layer_1", "pooler", "head"),
    ("embeddings", "layer_0", "layer_1", "pooler", "head"),
  ]
  assert _plan(facts, train_stages="top:1")[1].trains.train_stages == ("layer_1", "head")
  with pytest.raises(UserError, match="that can train are 3: embeddings, layer_0, layer_1"):
    _plan(facts, train_stages="top:4")
  rates = _plan(facts, layer_decay=0.5, learning_rate=1e-4)[1].optimizer.learning_rates
  assert (rates["layer_1"], rates["layer_0"], rates["embeddings"]) == (1e-4, 5e-5, 2.5e-5)


def test_gradual_shares_few_epochs_among_more_stages():
  phases = _plan(recipe="gradual", epochs=2)
  assert [phase.schedule.epochs for phase in phases[1:]] == [1, 1]
  assert set(phases[-1].trains.train_stages) == {*STAGES, "head"}
  assert len(phases[1].trains.train_stages) < len(phases[2].trains.train_stages)


@pytest.mark.parametrize(("recipe", "trainable_filter"), [("lora", KERNELS), ("bias_norm", BIAS_NORM)])
def test_light_recipes_choose_within_stages(recipe, trainable_filter):
  phase = _plan(recipe=recipe, lora_rank=4)[-1]
  assert phase.trains.trainable_filter == trainable_filter
  assert phase.trains.lora_rank == (4 if recipe == "lora" else 0)
  with pytest.raises(UserError, match="stage names"):
    _plan(recipe=recipe, train_stages="layer_1/.*kernel")


@pytest.mark.parametrize(
  ("text", "stages", "trainable_filter"),
  [
    ("auto", (*STAGES, "head"), "all"),
    ("all", (*STAGES, "head"), "all"),
    ("none", ("head",), "all"),
    ("top:1", ("layer_1", "head"), "all"),
    ("head,layer_1", ("layer_1", "head"), "all"),
    ("layer_0", ("layer_0", "head"), "all"),
    ("layer_1, layer_0", ("layer_0", "layer_1", "head"), "all"),
    ("head", ("head",), "all"),
    (r"query/kernel", ("layer_0", "layer_1", "head"), "query/kernel"),
  ],
)
def test_train_stages_forms(text, stages, trainable_filter):
  assert train_stages.parse(text, FACTS) == (stages, trainable_filter)
  if "head" in text:
    with pytest.raises(UserError, match="names the head, which --freeze_head freezes"):
      train_stages.parse(text, FACTS, freeze_head=True)
  else:
    assert train_stages.parse(text, FACTS, freeze_head=True) == (stages[:-1], trainable_filter)


def test_auto_does_not_train_the_frozen_stages_and_others_do():
  facts = dataclasses.replace(FACTS, frozen=("embeddings", "layer_0"))
  assert _plan(facts)[1].trains.train_stages == ("layer_1", "head")
  assert _plan(facts, train_stages="all")[1].trains.train_stages == (*STAGES, "head")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("stage4", r"--train_stages=stage4 is no stage of this backbone \(embeddings, layer_0, layer_1, head\)"),
    ("top:9", "that can train are 3"),
    ("layer_(", "neither stage names nor a regular expression"),
  ],
)
def test_train_stages_that_name_nothing_are_refused(text, message):
  with pytest.raises(UserError, match=message):
    train_stages.parse(text, FACTS)


def test_none_leaves_the_probe():
  assert [phase.name for phase in _plan(train_stages="none")] == ["probe"]


@pytest.mark.parametrize("recipe", ["lp_ft", "gradual", "lora", "bias_norm", "contrastive"])
def test_a_frozen_head_trains_in_the_probe_only(recipe):
  phases = _plan(recipe=recipe, train_stages="layer_0,layer_1", freeze_head=True)
  trained = [phase.trains.train_stages for phase in phases if phase.trains_backbone]
  assert trained[-1] == ("layer_0", "layer_1") and phases[0].trains.train_stages == ("head",)
  assert all("head" not in phase.optimizer.learning_rates for phase in phases if phase.trains_backbone)
  assert _plan(recipe=recipe, train_stages="none", freeze_head=True) == phases[:1]


def test_layer_decay_falls_towards_the_input():
  rates = _plan(learning_rate=1e-3, layer_decay=0.5)[-1].optimizer.learning_rates
  assert rates == {"embeddings": 0.25e-3, "layer_0": 0.5e-3, "layer_1": 1e-3, "head": 1e-3}
  rates = _plan(learning_rate=1e-3, backbone_learning_rate=1e-4, layer_decay=0.5, train_stages="layer_0,head")[-1]
  assert rates.optimizer.learning_rates == {"layer_0": 0.5e-4, "head": 1e-3}


def test_the_default_learning_rate_is_that_of_the_modality_and_the_width():
  text, image = modalities.of("text"), modalities.of("image")
  assert (text.learning_rate(384), text.learning_rate(768), image.learning_rate(1280)) == (1e-4, 3e-5, 3e-4)
  assert _plan(dataclasses.replace(FACTS, learning_rate=2e-4))[-1].optimizer.learning_rates["head"] == 2e-4
  assert _plan(recipe="lora")[-1].optimizer.learning_rates["layer_1"] == pytest.approx(5e-4)


@pytest.mark.parametrize(("num_train", "epochs"), [(100, 20), (2000, 16), (7636, 4), (100_000, 3)])
def test_small_sets_get_enough_steps(num_train, epochs):
  assert _plan(dataclasses.replace(FACTS, num_train=num_train))[-1].schedule.epochs == epochs


@pytest.mark.parametrize(
  ("batch_size", "num_train", "devices", "expected"), [(32, 100, 1, 32), (32, 10, 1, 10), (32, 11, 2, 10), (8, 1, 2, 2)]
)
def test_batches_are_full_and_divide_among_devices(batch_size, num_train, devices, expected):
  phase = _plan(dataclasses.replace(FACTS, num_train=num_train), devices, batch_size=batch_size)[0]
  assert phase.inputs.batch_size == expected
  assert phase.schedule.steps_per_epoch * phase.inputs.batch_size >= num_train


@pytest.mark.slow
def test_reading_a_plan_needs_no_tensorflow():
  code = "import sys, tl_app.recipes, tl_app.config, tl_app.backbones; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_flags_without_effect_in_a_plan_are_named():
  config = Config(recipe="probe", augment="light", precision="float32", max_minutes=3.0, lora_rank=4, epochs=2)
  found = flags_without_effect(config, recipes.plan(config, FACTS))
  assert found.keys() == {"augment", "precision", "max_minutes", "lora_rank", "epochs"}
  assert found["lora_rank"] == "it belongs to --recipe=lora" and found["epochs"] == "no phase trains the backbone"
  config = dataclasses.replace(config, augment_copies=2)
  assert "augment" not in flags_without_effect(config, recipes.plan(config, FACTS))
  config = dataclasses.replace(config, recipe="lp_ft")
  assert flags_without_effect(config, recipes.plan(config, FACTS)).keys() == {"lora_rank"}
  config = dataclasses.replace(config, recipe="lora")
  assert flags_without_effect(config, recipes.plan(config, FACTS)) == {}
  config = dataclasses.replace(config, bn="train", lora_rank=4)
  assert flags_without_effect(config, recipes.plan(config, FACTS), {"-", "frozen"}).keys() == {"bn"}
  assert flags_without_effect(config, recipes.plan(config, FACTS), {"-", "batch"}) == {}
  config = Config(recipe="contrastive", ema=0.9)
  assert flags_without_effect(config, recipes.plan(config, FACTS)).keys() == {"ema"}


def test_a_scikit_learn_solver_reads_no_flag_of_gradient_descent():
  own = {"head_learning_rate": 0.5, "head_epochs": 7, "early_stopping_patience": 1}
  config = Config(recipe="probe", probe_solver="logistic", **own)
  found = flags_without_effect(config, recipes.plan(config, FACTS))
  assert found == dict.fromkeys(own, "--probe_solver=logistic does not train by gradient descent")
  config = dataclasses.replace(config, recipe="full")
  assert flags_without_effect(config, recipes.plan(config, FACTS)).keys() == {"head_epochs"}


def test_gradual_needs_stages_that_can_train():
  facts = dataclasses.replace(FACTS, stages={**FACTS.stages, "pooler": ()})
  with pytest.raises(UserError, match="--train_stages=pooler,head: nothing in these stages can train"):
    _plan(facts, recipe="gradual", train_stages="pooler,head")


def test_no_stages_at_all_are_refused():
  with pytest.raises(UserError, match="--train_stages is empty"):
    _plan(train_stages=" ")


def test_flags_without_effect_in_a_probe_are_named():
  for has_image_size, size, named in ((True, 0, False), (True, 64, True), (False, 0, True)):
    config = Config(recipe="probe", max_minutes=3.0, image_size=size, train_stages="top:1")
    found = flags_without_effect(config, recipes.plan(config, FACTS), has_image_size=has_image_size)
    assert "train_stages" in found and ("max_minutes" in found) == named
  config = Config(train_stages="none")
  assert flags_without_effect(config, recipes.plan(config, FACTS)) == {}
  config = Config(train_stages="head", recipe="lora")
  assert flags_without_effect(config, recipes.plan(config, FACTS)) == {"recipe": "no phase trains the backbone"}


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_every_phase_survives_a_round_trip_through_json(recipe):
  facts = dataclasses.replace(FACTS, batch_examples=12.5)
  for phase in _plan(facts, recipe=recipe, batch_tokens=64, mixup=0.2, epochs=4):
    values = phase.to_json()
    assert Phase.from_json(values) == Phase.from_json(json.loads(json.dumps(values))) == phase
    # plan.json adds what was decided for the phase.
    assert Phase.from_json(values | {"examples": 100, "stages": []}) == phase


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_the_field_names_of_the_records_of_a_phase_are_unique(recipe):
  for phase in _plan(recipe=recipe):
    records = (phase.trains, phase.schedule, phase.optimizer, phase.objective, phase.inputs)
    names = [field.name for record in (phase, *records) for field in dataclasses.fields(record)]
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []
    fields = {name for name in names if name not in ("trains", "schedule", "optimizer", "inputs")}
    assert phase.to_json().keys() == fields


def test_replace_changes_fields_of_a_phase_and_of_its_records():
  _, phase = _plan()
  again = phase.replace(name="again", epochs=3, bn="train", ema=0.5, label_smoothing=0.2, batch_size=7)
  assert (again.name, again.schedule.epochs, again.trains.bn) == ("again", 3, "train")
  assert (again.optimizer.ema, again.objective.label_smoothing, again.inputs.batch_size) == (0.5, 0.2, 7)
  changed = {"name", "epochs", "bn", "ema", "label_smoothing", "batch_size"}
  assert {name for name, value in again.to_json().items() if value != phase.to_json()[name]} == changed
  assert phase.replace() == phase
  with pytest.raises(TypeError, match="a Phase has no field 'epoch'"):
    phase.replace(epoch=3)


def test_presets_decide_what_no_flag_does():
  names = {
    preset: [phase.name for phase in recipes.plan(Config(preset=preset), FACTS)]
    for preset in ("quick", "balanced", "best")
  }
  assert names["quick"] == ["probe"] and names["balanced"] == ["probe", "fine_tune"]
  assert names["best"] == ["probe", "fine_tune", "fine_tune_2", "fine_tune_3"]
  best = recipes.plan(Config(preset="best"), FACTS)
  assert [phase.trains.restart for phase in best] == [False, False, True, True]
  assert [phase.inputs.seed_offset for phase in best] == [0, 0, 1, 2]
  # What is given wins.
  for preset in ("quick", "balanced"):
    assert [phase.name for phase in recipes.plan(Config(preset=preset, recipe="lora"), FACTS)] == ["probe", "lora"]
  assert len(recipes.plan(Config(preset="best", fine_tuning_seeds=1), FACTS)) == 2
  assert recipes.plan(Config(preset="best", epochs=4), FACTS)[1].schedule.epochs == 4


def test_presets_decide_how_long_few_examples_are_fine_tuned():
  def epochs(num_train, few_steps=150, **flags):
    facts = dataclasses.replace(FACTS, num_train=num_train, few_steps=few_steps)
    return recipes.plan(Config(**flags), facts)[1].schedule.epochs

  assert [epochs(n) for n in (20, 244, 700, 3200)] == [20, 19, 10, 10]
  assert [epochs(n, few_steps=60) for n in (20, 100, 244, 700, 3200)] == [20, 15, 10, 10, 10]
  assert [epochs(n, recipe="lp_ft") for n in (20, 244, 700, 3200)] == [20, 20, 20, 10]
  assert [epochs(n, preset="best") for n in (20, 700, 3200)] == [40, 40, 20]
