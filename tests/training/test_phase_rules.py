"""Rules about flags and phases: an example of each."""

import types

import pytest
import tensorflow as tf

from tl_app import tasks
from tl_app.compute.devices import Devices
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import phase_rules

STAGES = {"embeddings": ("embeddings/kernel",), "layer_0": ("layer_0/kernel",)}
FACTS = Facts(num_train=100, num_classes=3, learning_rate=1e-4, stages=STAGES)
ONE = Devices(tf.distribute.get_strategy())
TWO = types.SimpleNamespace(replicas=2)


def model(inputs=(), task="single_label"):
  backbone = types.SimpleNamespace(
    network=types.SimpleNamespace(inputs=inputs), spec=types.SimpleNamespace(name="tiny")
  )
  return types.SimpleNamespace(stages={**STAGES, "head": ()}, backbone=backbone, task=tasks.TASKS[task])


def planned(*changes, **flags):
  """Returns the phases of the flags; with `changes` those of lp_ft, the second with each of the changes after it."""
  phases = recipes.plan(Config(**flags), FACTS)
  return [phases[0], *(phases[1].replace(**change) for change in changes)] if changes else phases


STRINGS = model(inputs=[tf.TensorSpec([None], tf.string)])
# (rule, phases, model, devices, part of its line).
EXAMPLES = [
  (phase_rules.probe_comes_first, [], model(), ONE, "the first phase must train the head alone"),
  (phase_rules.probe_comes_first, planned({})[1:], model(), ONE, "start the list with recipes.probe(..)"),
  (
    phase_rules.stages_exist,
    planned({"train_stages": ("layer_9", "head")}),
    *(model(), ONE),
    "fine_tune: layer_9 is no stage of this backbone (embeddings, layer_0, head)",
  ),
  (
    phase_rules.stages_have_learning_rates,
    planned({"learning_rates": {"head": 1e-3}}),
    *(model(), ONE),
    "fine_tune: learning_rates has no learning rate for stage embeddings",
  ),
  (
    phase_rules.lora_updates_kernels,
    planned({"lora_rank": 2}),
    *(model(), ONE),
    'fine_tune: lora_rank=2 needs trainable_filter="kernels"',
  ),
  (
    phase_rules.refit_needs_a_closed_form,
    planned({}),
    *(model(), ONE),
    "--refit=always needs a probe that scikit-learn solves, which this one is not (scikit-learn has no solver for the "
    "task)",
  ),
  (
    phase_rules.features_are_not_stale,
    planned({}, {"name": "again", "train_stages": ("head",)}),
    *(model(), ONE),
    "again fits the head after the backbone has trained: give it recompute_features=True",
  ),
  (
    phase_rules.accumulation_makes_an_update,
    planned(accumulate_steps=1000, epochs=3),
    *(model(), ONE),
    "--accumulate_steps=1000, but phase fine_tune has 12 batches in all",
  ),
  (phase_rules.strings_train_on_one_device, planned({}), STRINGS, TWO, "tiny takes texts as strings"),
  (
    phase_rules.objectives_fit,
    planned(recipe="contrastive"),
    *(model(task="multi_label"), ONE),
    "needs exactly one class for each example, not --task=multi_label",
  ),
]
# (rule, flags, modes of BatchNormalization, part of its reason).
WITHOUT_EFFECT = [
  (
    phase_rules.fine_tuning_needs_a_backbone_phase,
    {"recipe": "probe", "epochs": 3},
    (),
    "no phase trains the backbone",
  ),
  *(
    (phase_rules.fine_tuning_needs_a_backbone_phase, {"recipe": "probe", **flag}, (), "no phase trains the backbone")
    for flag in ({"fine_tuning_seeds": 2}, {"interpolate": "0.5"})
  ),
  (phase_rules.bn_needs_batch_normalization, {"bn": "train"}, ("frozen",), "no stage has BatchNormalization"),
  (phase_rules.rank_needs_lora, {"lora_rank": 4}, (), "it belongs to --recipe=lora"),
  (phase_rules.ema_needs_averages, {"recipe": "contrastive", "ema": 0.5}, (), "keeps no averaged weights"),
  (
    phase_rules.frozen_heads_need_the_task_loss,
    {"recipe": "contrastive", "freeze_head": True},
    (),
    "--recipe=contrastive trains the backbone without the head",
  ),
  (
    phase_rules.optimizer_flags_need_gradients,
    {"probe_solver": "svm", "head_epochs": 3},
    (),
    "--probe_solver=svm does not train by gradient descent",
  ),
  (
    phase_rules.optimizer_flags_need_gradients,
    {"recipe": "probe", "probe_solver": "svm", "momentum": 0.5},
    (),
    "--probe_solver=svm does not train by gradient descent",
  ),
]


@pytest.mark.parametrize(("rule", "phases", "model", "devices", "line"), EXAMPLES)
def test_phases_that_cannot_run_are_refused(rule, phases, model, devices, line):
  config = Config(refit="always") if rule is phase_rules.refit_needs_a_closed_form else Config()
  assert line in rule(config, phases, model, devices)
  with pytest.raises(UserError) as error:
    phase_rules.check(config, phases, model, devices)
  assert line in str(error.value)


@pytest.mark.parametrize(("rule", "flags", "modes", "reason"), WITHOUT_EFFECT)
def test_flags_that_change_nothing_have_a_reason(rule, flags, modes, reason):
  config, phases = Config(**flags), planned(**flags)
  (name,) = (name for name in flags if name not in ("recipe", "probe_solver"))
  assert reason in rule(config, phases, modes, False)[name]
  assert reason in phase_rules.flags_without_effect(config, phases, modes)[name]


def test_every_rule_has_a_docstring_and_an_example():
  tables = ((phase_rules.RULES, EXAMPLES), (phase_rules.WITHOUT_EFFECT, WITHOUT_EFFECT))
  for table, examples in tables:
    assert {rule for rule, *_ in examples} == set(table)
    assert [rule.__name__ for rule in table if not rule.__doc__] == []


def test_phases_of_the_recipes_break_no_rule():
  runs = [(Config(recipe=recipe), planned(recipe=recipe)) for recipe in recipes.RECIPES]
  runs.append((Config(), planned({}, {"name": "more"})))
  lines = [rule(*run, model(), ONE) for run in runs for rule in phase_rules.RULES]
  assert [line for line in lines if line] == []
