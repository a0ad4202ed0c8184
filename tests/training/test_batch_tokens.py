"""--batch_tokens: batches by tokens hold every text equally often, and never more tokens than the flag says."""

import itertools
import logging

import numpy as np
import pytest
import tiny_features
import tiny_presets

from tl_app import config as config_lib
from tl_app import files
from tl_app.commands import train
from tl_app.compute import devices as devices_lib
from tl_app.config import Config
from tl_app.data import pipeline
from tl_app.errors import UserError
from tl_app.features.frozen import Features, FeatureStore
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import feed, objectives
from tl_app.workdir import Clock

LENGTHS = np.random.default_rng(0).integers(3, 33, 700)
TOKENS = 96


def _batches(count, **options):
  stream = pipeline.token_batches(LENGTHS, TOKENS, **{"seed": 0} | options)
  return [batch.numpy() for batch in itertools.islice(stream, count)]


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_holds_texts_of_similar_length_up_to_the_limit(devices):
  batches = _batches(300, devices=devices)
  padded = np.array([LENGTHS[batch].max() * len(batch) for batch in batches])
  filled = np.array([LENGTHS[batch].sum() for batch in batches])
  assert padded.max() <= TOKENS
  assert filled.sum() / padded.sum() > 0.95
  assert np.median(padded) > TOKENS - 33 * devices
  assert all(len(batch) % devices == 0 for batch in batches)
  assert len({len(batch) for batch in batches}) > 5
  longest = [LENGTHS[batch].max() for batch in batches[:60]]
  assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_every_text_is_sampled_equally_often():
  # Of windows of about 350 texts the last may be of three passes.
  seen = np.bincount(np.concatenate(_batches(1000)))
  assert len(seen) == len(LENGTHS)
  assert seen.min() >= 5 and seen.max() - seen.min() <= 2


def test_the_order_depends_on_the_seed_alone():
  first, again, other = (np.concatenate(_batches(20, seed=seed)).tolist() for seed in (3, 3, 4))
  assert first == again
  assert first != other


def test_mean_batch_is_the_mean_over_one_pass():
  mean = pipeline.mean_batch(pipeline.token_batches(LENGTHS, TOKENS, 0), len(LENGTHS))
  assert mean == pytest.approx(np.mean([len(batch) for batch in _batches(2000)]), rel=0.05)


def test_texts_without_a_word_are_sampled_too():
  lengths = np.where(np.arange(60) < 30, 0, LENGTHS[:60])
  stream = pipeline.token_batches(lengths, TOKENS, seed=0)
  assert set(np.concatenate([batch.numpy() for batch in itertools.islice(stream, 60)])) == set(range(60))


def test_the_limit_holds_for_every_copy():
  tokens = np.stack([LENGTHS, np.minimum(LENGTHS + 5, 32), np.maximum(LENGTHS - 5, 3)])
  model, devices = tiny_features.model(max_length=32), devices_lib.make("single", 0)
  preprocess = model.backbone.preprocess
  data = tiny_features.data(tokens, model.backbone)
  features = Features(model, data, devices, FeatureStore(None, 1.0, "auto"), 64, Clock())
  facts = Facts(len(LENGTHS), 2, 1e-4, {"dense": ("dense/kernel",)}, batch_examples=8.0)
  phase = recipes.plan(Config(batch_tokens=128), facts)[-1]
  stream = feed.index_batches(phase, features, seed=0)
  batches = [batch.numpy() for batch in itertools.islice(stream, 300)]
  padded = [tokens.ravel()[batch].max() * len(batch) for batch in batches]
  assert max(padded) <= 128 and max(map(max, batches)) >= 2 * len(LENGTHS)
  with pytest.raises(UserError, match="--batch_tokens=31 does not hold a text of 32 tokens for each device"):
    objectives.mean_token_batch(31, "none", data, preprocess, devices.replicas, seed=0)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  settings = {"head_epochs": 3, "epochs": 2, "learning_rate": 3e-3, "export": False, "batch_tokens": 128}
  return settings | tiny_presets.reviews_run(tmp_path_factory.mktemp("batch_tokens"))


@pytest.mark.slow
@pytest.mark.parametrize("own", [{"train_stages": "top:1"}, {"strategy": "mirrored", "num_devices": 2}], ids=str)
def test_a_run_trains_on_batches_of_that_many_tokens(flags, own, tmp_path, monkeypatch, caplog):
  caplog.set_level(logging.INFO, "tl_app")
  seen = []
  token_batches = pipeline.token_batches

  def spy(lengths, tokens, *args):
    seen.append((np.asarray(lengths), tokens))
    return token_batches(lengths, tokens, *args)

  monkeypatch.setattr(pipeline, "token_batches", spy)
  metrics = train.train_and_evaluate(Config(**flags | own), tmp_path / "run")
  probe, phase = files.read_json(tmp_path / "run/plan.json")["phases"]
  (lengths, tokens), *_ = seen
  assert tokens == phase["batch_tokens"] == 128 and probe["batch_tokens"] == 0
  assert phase["batch_size"] * phase["steps_per_epoch"] == pytest.approx(phase["examples"], rel=0.2)
  assert phase["batch_size"] * lengths.mean() <= 128
  assert f"batches of up to 128 tokens, {phase['batch_size']} texts on average" in caplog.text
  candidates = metrics["candidates"]
  assert candidates["fine_tuned"]["loss"] != pytest.approx(candidates["probe"]["loss"], abs=1e-5)


@pytest.mark.slow
def test_a_limit_below_one_text_is_refused(flags, tmp_path):
  with pytest.raises(UserError, match=r"--batch_tokens=4 does not hold a text of \d+ tokens for each device: use"):
    train.train_and_evaluate(Config(**flags | {"batch_tokens": 4}), tmp_path / "run")
  assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.parametrize(
  ("other", "message"),
  [
    ({"batch_size": 16}, "--batch_size=16 does nothing with --batch_tokens=128"),
    ({"batch_size": "auto"}, "--batch_size=auto does nothing with --batch_tokens=128"),
    ({"long_text": "windows"}, "--batch_tokens does not go with --long_text=windows"),
    ({"recipe": "contrastive"}, "--batch_tokens=128 does nothing with --recipe=contrastive"),
  ],
)
def test_flags_that_contradict_it_are_refused(flags, other, message):
  with pytest.raises(UserError, match=message):
    config_lib.validate(Config(**flags | other | {"workdir": "run"}))
