"""The learning rate range test: what it proposes for a curve, and that it leaves nothing behind but its results."""

import types

import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_modules
import tiny_presets

from tl_app import files
from tl_app.commands import benchmark, find_lr
from tl_app.compute.devices import Devices
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.features.frozen import Features, FeatureStore
from tl_app.model import stages
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import fit
from tl_app.workdir import Clock

RATES = np.geomspace(1e-6, 1.0, 61)


def curve(least):
  """A loss that is flat, falls up to the rate `least`, and then grows."""
  x = np.log10(RATES / least)
  return np.where(x < 0, 0.2 + 0.8 / (1 + np.exp(4 * (x + 2))), 0.2 + x**2)


@pytest.mark.parametrize("least", [1e-3, 1e-1])
def test_the_proposal_is_a_tenth_of_the_rate_of_the_least_loss(least):
  found = find_lr.propose(RATES, curve(least))
  assert found["least"] == pytest.approx(least) and found["proposal"] == pytest.approx(least / 10)
  assert found["steepest"] == pytest.approx(least / 100, rel=0.3)


def test_where_the_loss_falls_at_no_rate_the_proposal_is_below_its_rise():
  found = find_lr.propose(RATES, np.where(RATES < 5e-4, 0.5, 0.6))
  assert found["least"] is None and found["rises"] == pytest.approx(5e-4, rel=0.3)
  assert found["proposal"] == pytest.approx(1e-4, rel=0.3)
  facts = {"phase": "fine_tune", "batch_size": 8, "rates": RATES.tolist(), "smoothed": [0.5]}
  *_, rises, proposal = find_lr.lines(facts | found, "out")
  assert "has risen at" in rises and f"try --learning_rate={found['proposal']:g}, a fifth" in proposal


def test_a_loss_that_stays_as_it_is_gives_no_proposal():
  with pytest.raises(UserError, match="the loss neither falls nor rises"):
    find_lr.propose(RATES, np.ones(len(RATES)))


def test_smoothing_starts_at_the_first_loss_and_dampens_noise():
  noise = np.random.default_rng(0).normal(1.0, 0.5, 400)
  smoothed = find_lr.smooth(noise)
  assert smoothed[0] == pytest.approx(noise[0])
  assert smoothed[50:].std() < 0.3 * noise.std() and smoothed[50:].mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_hard_and_easy_batches_do_not_hide_a_small_fall(seed):
  rng = np.random.default_rng(seed)
  hard = rng.normal(0.5, 0.12, len(RATES))
  true = 0.1 * (curve(1e-3) - 1)
  smoothed = find_lr.relative(list(hard + true + rng.normal(0, 0.005, len(RATES))), [*hard, 9.0])
  assert 3e-4 < find_lr.propose(RATES, smoothed)["least"] < 2e-2
  assert smoothed[0] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    ({}, 1e-4),
    ({"recipe": "full"}, 1e-4),  # its head has the higher --head_learning_rate
    ({"recipe": "lora"}, 5e-4),
    ({"train_stages": "embeddings"}, 1e-4),  # a share of it
    ({"recipe": "full", "learning_rate": 2e-3}, 2e-3),
  ],
)
def test_learning_rates_are_those_of_the_flag(monkeypatch, flags, expected):
  facts = Facts(320, 2, 1e-4, {"embeddings": ("e/table",), "layer_0": ("a/kernel",)})
  monkeypatch.setattr(find_lr.planning, "facts", lambda *_: facts)
  devices, store = Devices(tf.distribute.get_strategy()), FeatureStore(None, 0.0, "tensorflow")
  own = Config(**flags)
  phase = recipes.plan(own, facts)[1]
  assert find_lr._rate(own, Features(None, None, devices, store, 8, Clock()), phase) == pytest.approx(expected)


def _batches_until_end(losses, start):
  """Returns after how many batches of such `losses` a test ends."""
  history = find_lr._LossHistory(start)
  history.set_model(types.SimpleNamespace(reset_metrics=lambda: None, stop_training=False))
  for number, loss in enumerate(losses, start=1):
    history.on_train_batch_end(number, {"loss": loss})
    if history.model.stop_training:
      break
  return number


def test_a_hard_batch_is_no_divergence():
  start = np.array([1e-4, 1e-4, 3.0, 1e-4] * 5)
  assert _batches_until_end(start, start) == 20
  # One that steps have made much easier than the first is none either.
  assert _batches_until_end(start - np.linspace(0, 1e-4, 20), start) == 20
  grows = start + np.where(np.arange(20) < 10, 0, 20.0)
  assert _batches_until_end(grows, start) in (11, 12, 13)
  assert _batches_until_end([1.0, np.nan], np.ones(2)) == 2


@pytest.mark.slow
def test_a_loss_that_is_never_finite_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(find_lr.heads, "reset", lambda head, bias: head.get_layer("logits").bias.assign(bias + np.nan))
  with pytest.raises(RunFailed, match="the loss is not finite before any step"):
    find_lr.measure(config(tmp_path, recipe="full"), 12)


def config(tmp_path, **flags):
  backbone = tiny_presets.bert(tmp_path / "bert", list(tiny_modules.VOCABULARY), layers=1)
  data = "table:" + tiny_data.reviews(tmp_path / "reviews.csv")
  defaults = {"workdir": str(tmp_path / "out"), "feature_cache": "off", "head_epochs": 2, "batch_size": 8}
  return Config(backbone=backbone, dataset=data, offline=True, **defaults | flags)


@pytest.mark.slow
def test_the_weights_are_put_back_and_the_results_are_written(tmp_path, monkeypatch, caplog):
  caplog.set_level("INFO", "tl_app")
  changing, seen = stages.changing, []

  def spy(model, phases):
    variables = changing(model, phases)
    seen.append((variables, [variable.numpy().copy() for variable in variables]))
    return variables

  monkeypatch.setattr(find_lr.stages, "changing", spy)
  result = find_lr.measure(config(tmp_path), 40)
  # Nothing is selected, tested or exported.
  assert "learning rate range test: 40 batches" in caplog.text and "to do: " not in caplog.text
  variables, before = seen[-1]
  assert len(variables) > 10
  assert all((variable.numpy() == value).all() for variable, value in zip(variables, before))
  assert files.read_json(tmp_path / "out" / find_lr.RESULT) == result
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [find_lr.RESULT, find_lr.PLOT]
  assert result["rates"][0] == pytest.approx(find_lr.LOWEST) and len(result["losses"]) == len(result["rates"])
  assert 1e-6 < result["proposal"] < 1.0
  assert any("--learning_rate=" in line for line in find_lr.lines(result, "out"))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{"batch_size": "auto"}, {"batch_size": 32, "batch_tokens": 128}], ids=str)
def test_the_batches_are_those_of_training(tmp_path, monkeypatch, flags):
  seen, with_phase_steps = [], fit.with_phase_steps

  def spy(network, phase):
    # Memory holds a batch of the tiny network: pretend that it does not.
    phase = phase if phase.inputs.batch_tokens else phase.replace(microbatches=2)
    seen.append((phase, with_phase_steps(network, phase)))
    return seen[-1][1]

  monkeypatch.setattr(fit, "with_phase_steps", spy)
  result = find_lr.measure(config(tmp_path, **flags), 12)
  phase, network = seen[-1]
  assert type(network).__name__ == ("SizeWeightedModel" if phase.inputs.batch_tokens else "MicrobatchModel")
  assert result["batch_size"] == phase.inputs.batch_size and len(result["losses"]) == 12


@pytest.mark.slow
def test_a_recipe_without_fine_tuning_has_no_rate_to_find(tmp_path):
  with pytest.raises(UserError, match="--recipe=probe .*trains no stage of the backbone"):
    find_lr.measure(config(tmp_path, recipe="probe"), 20)
  with pytest.raises(UserError, match="--backbone_learning_rate=0.001 does nothing in find_lr"):
    find_lr.measure(config(tmp_path, backbone_learning_rate=1e-3), 20)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "measure", [find_lr.measure, lambda config, steps: benchmark.measure(config, "head", 2, steps)]
)
def test_a_workdir_that_is_a_file_is_refused_before_anything_is_measured(tmp_path, measure):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file is a file; choose another directory"):
    measure(Config(dataset="images:nowhere", workdir=str(tmp_path / "file")), 20)
