"""--batch_tokens: batches by tokens hold every text equally often, within the budget, and each counts the same."""

import itertools
import logging
import types

import numpy as np
import pytest
import tiny_presets

from tl_app import config as config_lib
from tl_app import files
from tl_app.commands import train
from tl_app.config import Config
from tl_app.data import pipeline
from tl_app.errors import UserError
from tl_app.features import session
from tl_app.recipes import recipes

LENGTHS = np.random.default_rng(0).integers(3, 33, 700)
TOKENS = 96


def _batches(count, **options):
  stream = pipeline.token_batches(LENGTHS, TOKENS, **{"seed": 0} | options)
  return [batch.numpy() for batch in itertools.islice(stream, count)]


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_holds_texts_of_like_length_up_to_the_budget(devices):
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


def test_every_text_comes_equally_often():
  # Of windows of about 350 texts the last may be of three passes.
  seen = np.bincount(np.concatenate(_batches(1000)))
  assert len(seen) == len(LENGTHS)
  assert seen.min() >= 5 and seen.max() - seen.min() <= 2


def test_the_order_depends_on_the_seed_alone():
  first, again, other = (np.concatenate(_batches(20, seed=seed)).tolist() for seed in (3, 3, 4))
  assert first == again
  assert first != other


def test_mean_batch_counts_a_pass():
  mean = pipeline.mean_batch(pipeline.token_batches(LENGTHS, TOKENS, 0), len(LENGTHS))
  assert mean == pytest.approx(np.mean([len(batch) for batch in _batches(2000)]), rel=0.05)


def test_texts_without_a_word_come_too():
  lengths = np.where(np.arange(60) < 30, 0, LENGTHS[:60])
  stream = pipeline.token_batches(lengths, TOKENS, seed=0)
  assert set(np.concatenate([batch.numpy() for batch in itertools.islice(stream, 60)])) == set(range(60))


def test_the_budget_holds_for_every_copy():
  copies = 2
  tokens = np.concatenate([LENGTHS, np.minimum(LENGTHS + 5, 32), np.maximum(LENGTHS - 5, 3)])
  config = types.SimpleNamespace(seed=0, batch_tokens=32, imbalance="none")
  run = types.SimpleNamespace(
    config=config,
    split=types.SimpleNamespace(train=np.arange(len(LENGTHS))),
    tokens=tokens,
    places=np.arange((1 + copies) * len(LENGTHS)).reshape(1 + copies, -1),
    strategy=types.SimpleNamespace(num_replicas_in_sync=1),
    model=types.SimpleNamespace(
      backbone=types.SimpleNamespace(preprocess=types.SimpleNamespace(max_length=32)), task=None
    ),
  )
  phase = types.SimpleNamespace(objective=recipes.LOSS, batch_tokens=128, batch_classes=0, imbalance="none")
  batches = [batch.numpy() for batch in itertools.islice(session.index_batches(run, phase), 300)]
  padded = [tokens[batch].max() * len(batch) for batch in batches]
  assert max(padded) <= 128 and max(map(max, batches)) >= 2 * len(LENGTHS)
  config.batch_tokens = 31
  with pytest.raises(UserError, match="--batch_tokens=31 does not hold a text of 32 tokens a device"):
    session.batch_examples(run)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  settings = {"head_epochs": 3, "epochs": 2, "learning_rate": 3e-3, "export": False, "batch_tokens": 128}
  return settings | tiny_presets.reviews_run(tmp_path_factory.mktemp("batch_tokens"))


@pytest.mark.slow
@pytest.mark.parametrize("own", [{"train_stages": "top:1"}, {"strategy": "mirrored", "num_devices": 2}], ids=str)
def test_a_run_trains_on_batches_of_so_many_tokens(flags, own, tmp_path, monkeypatch, caplog):
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
  rungs = metrics["candidates"]
  assert rungs["fine_tuned"]["loss"] != pytest.approx(rungs["probe"]["loss"], abs=1e-5)


@pytest.mark.slow
def test_a_budget_below_one_text_is_refused(flags, tmp_path):
  with pytest.raises(UserError, match=r"--batch_tokens=4 does not hold a text of \d+ tokens a device: give"):
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
def test_what_does_not_go_together_is_refused(flags, other, message):
  with pytest.raises(UserError, match=message):
    config_lib.validate(Config(**flags | other | {"workdir": "run"}))
