"""Tests of what a preset skips, of soups, and of weights between those of two models."""

import dataclasses
import types

import numpy as np
import pytest
import tiny_presets

from tl_app import files
from tl_app.commands import train
from tl_app.config import Config
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.tasks import REGRESSION, SINGLE_LABEL
from tl_app.training import planning, selection
from tl_app.training.selection import Candidate

TASK = SINGLE_LABEL.with_codec(names=("a", "b"))
TUNING = recipes.plan(Config(), Facts(100, 2, 1e-4, {"layer": ("layer/kernel",)}))[1]


def _features(task=TASK, pretrained=True, size=40):
  model = types.SimpleNamespace(task=task, backbone=types.SimpleNamespace(pretrained=pretrained))
  data = types.SimpleNamespace(validation=np.arange(size), targets=np.zeros(size, int))
  return types.SimpleNamespace(model=model, data=data)


def _probe(wrong, size=40):
  right = np.arange(size) >= wrong
  return Candidate("probe", np.stack([right, ~right], axis=1).astype(float), [], "probe")


def test_a_probe_with_few_errors_is_not_fine_tuned():
  reason = selection.cannot_win(_probe(2), TUNING, _features(), Config())
  assert "2 of 40 examples wrong on the validation split" in reason and "gain 3" in reason
  assert not selection.cannot_win(_probe(3), TUNING, _features(), Config())


def test_in_cross_validation_a_lower_loss_is_enough():
  right, wrong = (dataclasses.replace(_probe(errors), rows=np.arange(40)) for errors in (0, 1))
  assert "0 of 40 examples wrong" in selection.cannot_win(right, TUNING, _features(), Config())
  assert not selection.cannot_win(wrong, TUNING, _features(), Config())


@pytest.mark.parametrize(
  ("changes", "flags", "expected"),
  [
    ({}, {}, True),
    ({}, {"select": "fine_tuned"}, True),
    ({}, {"recipe": "lp_ft"}, False),
    ({}, {"preset": "best"}, True),
    ({}, {"preset": "quick"}, False),
    ({}, {"epochs": 3}, False),
    ({}, {"batch_size": "auto"}, False),
    ({}, {"label_smoothing": 0.1}, False),
    ({}, {"interpolate": "0.5"}, False),
    ({"count": 39}, {}, False),
    ({"count": 20 * planning.CONTRASTIVE_EXAMPLES + 1}, {}, False),
    ({"task": TASK}, {}, False),
    ({"pairs": True}, {}, False),
    ({"l2_normalized": False}, {}, False),
    ({"pretrained": False}, {}, False),
    ({"task": REGRESSION.with_codec(names=("price",))}, {}, False),
  ],
)
def test_the_contrastive_loss_is_for_few_texts(changes, flags, expected):
  intents = SINGLE_LABEL.with_codec(names=tuple(f"intent {number}" for number in range(20)))
  facts = {"count": 60, "pairs": False, "l2_normalized": True, "pretrained": True, "task": intents} | changes
  spec = types.SimpleNamespace(l2_normalized=facts["l2_normalized"])
  backbone = types.SimpleNamespace(spec=spec, pairs=facts["pairs"], pretrained=facts["pretrained"])
  data, model = (
    types.SimpleNamespace(train=np.arange(facts["count"])),
    types.SimpleNamespace(backbone=backbone, task=facts["task"]),
  )
  assert planning.contrasts(Config(**flags), data, model) == expected


@pytest.mark.parametrize(
  ("changes", "flags", "frozen"),
  [
    ({}, {}, 3),
    ({"count": planning.FEW_EXAMPLES}, {}, 0),
    ({"modality": "text"}, {}, 0),
    ({"pretrained": False}, {}, 0),
    ({}, {"recipe": "lp_ft"}, 0),
    ({}, {"preset": "best"}, 0),
  ],
)
def test_the_lower_stages_stay_as_they_are_on_few_images(changes, flags, frozen):
  facts = {"count": planning.FEW_EXAMPLES - 1, "modality": "image", "pretrained": True} | changes
  stages = {f"stage_{k}": () for k in range(10)}
  backbone = types.SimpleNamespace(stages=stages, modality=facts["modality"], pretrained=facts["pretrained"])
  data = types.SimpleNamespace(train=np.arange(facts["count"]))
  assert planning.frozen(Config(**flags), data, backbone) == tuple(stages)[:frozen]


def test_balanced_takes_the_contrastive_recipe_where_it_suits():
  facts = Facts(20, 2, 1e-4, {"layer": ("layer/kernel",)}, contrasts=True)
  assert recipes.plan(Config(), facts) == recipes.plan(Config(recipe="contrastive"), facts)
  assert len(recipes.plan(Config(preset="quick"), facts)) == 1


@pytest.mark.parametrize("flags", [{"recipe": "lp_ft"}, {"epochs": 2}, {"select": "fine_tuned"}])
def test_what_is_asked_for_is_done(flags):
  assert not selection.cannot_win(_probe(0), TUNING, _features(), Config(**flags))
  assert not selection.cannot_win(_probe(0), TUNING, _features(pretrained=False), Config())
  assert not selection.cannot_win(_probe(0), TUNING, _features(REGRESSION), Config())


@pytest.mark.slow
def test_the_best_preset_trains_soups_and_weights_in_between(tmp_path):
  flags = tiny_presets.reviews_run(tmp_path) | {"export": False, "epochs": 1, "learning_rate": 3e-3}
  flags |= {"preset": "best", "fine_tuning_seeds": 2, "interpolate": "0.5", "recipe": "lp_ft"}
  metrics = train.train_and_evaluate(Config(**flags, select="interpolated"), tmp_path / "run")
  assert {"probe", "fine_tuned", "averaged", "interpolated"} <= set(metrics["candidates"])
  assert metrics["selected_candidate"] == "interpolated" and metrics["selected"] == "fine_tuned"
  weights = {}
  for name in ("probe", "fine_tuned", "interpolated"):
    with np.load(next((tmp_path / "run/checkpoints" / name).glob("*.npz"))) as arrays:
      weights[name] = {key: arrays[key] for key in arrays.files}
  shared = [key for key in weights["probe"] if key in weights["interpolated"] and weights["probe"][key].ndim > 1]
  assert shared
  for key in shared:
    mean = (weights["probe"][key] + weights["fine_tuned"][key]) / 2
    np.testing.assert_allclose(weights["interpolated"][key], mean, atol=1e-6)
  names = [phase["name"] for phase in files.read_json(tmp_path / "run/plan.json")["phases"]]
  assert names == ["probe", "fine_tune", "fine_tune_2"]
