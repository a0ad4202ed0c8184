"""Tests of cross-validation of fine-tuning, and of the model that is fine-tuned on training and validation examples."""

import dataclasses
import pathlib
import time
import types

import numpy as np
import pytest
import tiny_data
import tiny_modules

from tl_app import files
from tl_app.commands import train
from tl_app.config import FIELDS, Config
from tl_app.data.splitting import folds
from tl_app.model import stages
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.tasks import SINGLE_LABEL, solvers
from tl_app.training import cross_validation, phases, time_budget
from tl_app.training.cross_validation import CrossValidation
from tl_app.training.phase_result import PhaseResult
from tl_app.training.refit import Refit
from tl_app.training.selection import Candidate
from tl_app.training.time_limit import TimeLimit
from tl_app.workdir import Record, Workdir

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
FACTS = Facts(100, 2, 1e-4, {"layer": ("layer/kernel",)})
TASK = SINGLE_LABEL.with_codec(names=("a", "b"))


def _features(workers=1, pretrained=True, task=TASK, copies=0):
  backbone = types.SimpleNamespace(pretrained=pretrained)
  data = types.SimpleNamespace(
    train_rows=np.zeros((1 + copies, 20), int), targets=np.zeros(20, int), train=np.arange(20)
  )
  model = types.SimpleNamespace(backbone=backbone, task=task)
  return types.SimpleNamespace(model=model, data=data, devices=types.SimpleNamespace(workers=workers))


def test_the_help_and_the_docs_name_the_time_that_the_folds_may_take():
  assert cross_validation.MOST_SECONDS == {"quick": 4 * 60, "balanced": 4 * 60, "best": 20 * 60}
  assert "four minutes, 20 with --preset=best" in FIELDS["refit"].metadata["help"]
  assert "four minutes" in (DOCS / "recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
  ("flags", "features", "reason"),
  [
    ({}, {}, ""),
    ({"select": "fine_tuned", "recipe": "gradual"}, {}, ""),
    ({}, {"workers": 2}, "one machine"),
    ({}, {"pretrained": False}, "random weights"),
    ({"select": "averaged"}, {}, "--select=averaged"),
    ({"preset": "best"}, {}, ""),
    ({"preset": "best", "fine_tuning_seeds": 2}, {}, "soups"),
    ({"interpolate": "0.5"}, {}, "interpolated"),
    ({"recipe": "contrastive", "probe_solver": "logistic"}, {}, ""),
    ({"recipe": "contrastive", "probe_solver": "adamw"}, {}, "last head"),
    ({"ood_score": "knn"}, {}, "out-of-distribution"),
    ({"augment_copies": 2}, {"copies": 2}, "--augment_copies=2"),
  ],
)
def test_what_is_not_cross_validated(flags, features, reason):
  config = Config(**flags)
  found = cross_validation.why_not(config, recipes.plan(config, FACTS), _features(**features))
  assert reason in found and bool(reason) == bool(found)


def _crossing(tmp_path, monkeypatch, answers, **flags):
  """Returns the `CrossValidation` of four folds of five examples whose fine-tuned answers have so many errors each."""
  network = types.SimpleNamespace(variables=[])
  features = _features()
  features.model.network = network
  features.with_parts = lambda *_: None
  monkeypatch.setattr(
    CrossValidation, "_fold", lambda self, features, strength, number: {0.0: _logits(answers[number - 1])}
  )
  config, record = Config(**flags), Record(Workdir(tmp_path))
  return CrossValidation([types.SimpleNamespace(name="fine_tune")], features, config, record, None, list)


def _logits(wrong, size=5):
  right = np.arange(size) >= wrong
  return np.stack([right, ~right], axis=1).astype(np.float32)


@pytest.mark.parametrize(
  ("errors", "ended"), [((0, 0, 0, 0), 4), ((1, 1, 1, 1), 4), ((5, 0, 0, 0), 1), ((2, 2, 5, 5), 2)]
)
def test_folds_end_where_the_probe_is_better(tmp_path, monkeypatch, errors, ended):
  crossing = _crossing(tmp_path, monkeypatch, errors)
  probe = Candidate(
    "probe", np.concatenate([_logits(1), *[_logits(0)] * 3]), [], "probe", rows=np.arange(20), estimate={"folds": 4}
  )
  planned = {"folds": 4, "seconds": 0.0, "final": 0.0}
  answers, in_time = crossing._answers(probe, Refit(4, "", 1.0), [((), ())] * 4, planned, [])
  assert (len(answers), in_time) == (ended, True)


@pytest.mark.parametrize("recipe", ["lp_ft", "contrastive"])
def test_the_final_model_has_the_time_that_was_planned(tmp_path, monkeypatch, recipe):
  crossing = _crossing(tmp_path, monkeypatch, [])
  planned = recipes.plan(Config(recipe=recipe, epochs=3, refit="always"), FACTS)
  crossing = dataclasses.replace(crossing, phases=planned, config=Config(refit="always"))
  crossing.features.data.test = np.arange(10_000)
  monkeypatch.setattr(CrossValidation, "_fixed", lambda self, features: planned[1:])
  monkeypatch.setattr(cross_validation, "_measured_step", lambda *_: (0.1, 0.5))
  seconds = crossing._planned([(np.arange(60), np.arange(60, 100))] * 5, planned[1:])["final"]
  whole = types.SimpleNamespace(train=np.arange(100), validation=np.arange(0), test=np.arange(10_000))
  limit = TimeLimit(time.monotonic() + seconds + time_budget.CLOSING_SECONDS[False], 1.0, False)
  assert limit.shorten(planned[1], 0.1, whole, 1) is planned[1]


@pytest.mark.parametrize(
  ("held", "seconds", "flags", "count", "told"),
  [
    (4, 10.0, {}, 5, ""),
    (40, 10.0, {}, 5, ""),
    (40, 30.0, {}, 3, "; 120 held-out examples are enough to choose by, --refit=always runs all 5 folds"),
    (200, 40.0, {}, 1, "; 200 held-out examples are enough"),
    (
      40,
      100.0,
      {},
      2,
      "; with all 5 folds it would be longer than the 4 min of --preset=balanced, ",
    ),
    (40, 300.0, {}, 0, "; with all 5 folds"),
    (40, 30.0, {"preset": "best"}, 5, ""),
    (40, 300.0, {"refit": "always"}, 5, ""),
  ],
)
def test_as_many_folds_are_run_as_the_choice_needs_and_the_time_allows(
  tmp_path, monkeypatch, held, seconds, flags, count, told
):
  crossing = _crossing(tmp_path, monkeypatch, [], **flags)
  found, words = crossing._affordable(5, held, seconds, rest=20.0)
  assert found == count and words.startswith(told) and bool(words) == bool(told)


@pytest.mark.parametrize(
  ("recipe", "examples", "shares"), [("contrastive", 100, [1, 0]), ("gradual", 2900, list(range(11, 0, -1)))]
)
def test_phases_of_the_backbone_share_the_time_of_the_final_model(tmp_path, monkeypatch, recipe, examples, shares):
  found, facts = [], Facts(2500, 2, 1e-4, {f"layer_{k}": (f"{k}/kernel",) for k in range(14)}, closed_solver="logistic")
  planned, final = (
    recipes.plan(Config(recipe=recipe), dataclasses.replace(facts, num_train=count))
    for count in (min(examples, 2500), examples)
  )

  def fit(phase, features, config, record, limit, remaining):
    found.append(remaining)
    return PhaseResult(phase, phase)

  monkeypatch.setattr(phases, "fit", fit)
  monkeypatch.setattr(phases, "use", lambda *_: None)
  monkeypatch.setattr(stages, "changing", lambda *_: [])
  features = _features()
  candidates = [Candidate(name, _logits(0), [], name) for name in ("probe", "fine_tuned")]
  done = phases._Done(phases=1, results=[PhaseResult(planned[0], planned[0])])
  crossed = cross_validation.Crossed(candidates, features, final[1:], "")
  trained = phases._train_on_all(done, crossed, planned, Config(), Record(Workdir(tmp_path)), None)
  assert found == shares and [candidate.name for candidate in trained] == ["probe", "fine_tuned"]
  # plan.json tells of each phase.
  assert [result.planned.name for result in done.results] == [phase.name for phase in planned]


@pytest.mark.slow
def test_a_run_continues_after_the_folds_that_have_ended(tmp_path, monkeypatch, caplog):
  caplog.set_level("INFO", "tl_app")
  monkeypatch.setattr(folds.held_out, "__defaults__", (2,))
  config = Config(
    backbone=str(tiny_modules.image(tmp_path / "module")),
    dataset=f"images:{tiny_data.colours(tmp_path / 'colours', per_class=8)}",
    image_size=16,
    recipe="lp_ft",
    preset="best",
    epochs=2,
    refit="always",
    select="fine_tuned",
    feature_cache="off",
    export=False,
  )
  fold, answers = CrossValidation._fold, []

  def interrupted(self, features, strength, number):
    answers.append((number, fold(self, features, strength, number)))
    if len(answers) == 2:
      raise KeyboardInterrupt
    return answers[-1][1]

  monkeypatch.setattr(CrossValidation, "_fold", interrupted)
  with pytest.raises(KeyboardInterrupt):
    train.train_and_evaluate(config, tmp_path / "run")
  found = train.train_and_evaluate(config, tmp_path / "run")
  (_, first), (_, second), (number, again) = answers
  first, second, again = (fold[0.0] for fold in (first, second, again))
  assert number == 2 and (second == again).all()
  splits = files.read_json(tmp_path / "run/splits.json")["splits"]
  assert found["validation"]["num_examples"] == len(first) + len(second)
  assert len(first) + len(second) == len(splits["train"]["ids"]) + len(splits["validation"]["ids"])
  assert found["compared"] == {"estimate": "cross_validation", "folds": 2} and found["validation"]["folds"] == 2
  assert found["selected_candidate"] == "fine_tuned" and found["candidates"].keys() > {"probe", "nearest_neighbours"}
  plan = files.read_json(tmp_path / "run/plan.json")
  refit = plan["phases"][0]["refit"]
  assert refit["folds"] == 2 and refit["strength"] in solvers.STRENGTHS
  assert plan["cross_validation"]["folds"] == 2 and plan["candidates"] == {"probe": "probe", "fine_tuned": "fine_tune"}
  assert [bool(phase.get("skipped")) for phase in plan["phases"]] == [False, False, True, True]
  assert "phase fine_tune: 2 epochs" in caplog.messages
  lines = (tmp_path / "run/log.jsonl").read_text()
  assert lines.count('"fine_tune"') == 2 and "val_loss" not in lines.splitlines()[-1]
