"""Frozen stages from disk: the same training as with the stages in every step, and nothing stale."""

import functools
import logging
import pathlib
import shutil

import numpy as np
import pytest
import tiny_data
import tiny_modules
import tiny_presets

from tl_app import files
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.data.splitting import folds
from tl_app.features import disk_cache, trunk
from tl_app.training import feed

pytestmark = pytest.mark.slow

COPIES = {"augment": "light", "augment_copies": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("trunk")
  return {
    "bert": (
      tiny_presets.bert(root / "bert", list(tiny_modules.VOCABULARY)),
      "table:" + tiny_data.reviews(root / "reviews.csv"),
      "layer_1",
    ),
    "cache": root / "cache",
    "resnet": (tiny_presets.resnet(root / "resnet", 32), "images:" + tiny_data.colours(root / "colours"), "stack1"),
  }


def _run(world, kind, cache, workdir, **flags):
  """Returns the metrics of a run that trains the last stage of a backbone of `world` and the head."""
  backbone, dataset, stage = world[kind]
  config = Config(
    backbone=backbone,
    dataset=dataset,
    cache_dir=str(world["cache"]),
    feature_cache=str(cache),
    **{"train_stages": f"{stage},head", "head_epochs": 5, "epochs": 2, "learning_rate": 1e-3, "export": False} | flags,
  )
  return train_lib.train_and_evaluate(config, workdir)


@pytest.fixture
def run(world, tmp_path):
  numbers = iter(range(100))
  return lambda kind, cache, **flags: _run(world, kind, cache, tmp_path / f"run{next(numbers)}", **flags)


@pytest.fixture(scope="module")
def first_run(world, tmp_path_factory):
  """Returns a function, kind of backbone -> (metrics of a run that found an empty cache, the cache)."""

  @functools.cache
  def first(kind):
    root = tmp_path_factory.mktemp("first")
    return _run(world, kind, root / "cache", root / "run"), root / "cache"

  return first


@pytest.fixture
def stored(first_run, tmp_path):
  """Returns a function, kind of backbone -> (metrics of the first run, a copy of its cache)."""

  def copied(kind):
    metrics, cache = first_run(kind)
    return metrics, shutil.copytree(cache, tmp_path / "cache")

  return copied


def _trunks(cache):
  return sorted(pathlib.Path(cache).glob("trunk-*"))


@pytest.mark.parametrize(("kind", "flags"), [("bert", {}), ("bert", COPIES), ("resnet", COPIES)], ids=str)
def test_training_from_disk_is_training_online(run, stored, tmp_path, kind, flags):
  online = run(kind, "off", **flags)
  from_disk, cache = (run(kind, tmp_path / "cache", **flags), tmp_path / "cache") if flags else stored(kind)
  (store,) = _trunks(cache)
  assert (store / "dtype").read_text() in ("float16", "float32")
  for name in ("fine_tuned", "averaged"):
    assert from_disk["candidates"][name]["loss"] == pytest.approx(online["candidates"][name]["loss"], abs=2e-3)
    assert from_disk["candidates"][name]["loss"] != pytest.approx(from_disk["candidates"]["probe"]["loss"], abs=1e-5)


def test_folds_are_measured_and_trained_in_one_network_on_the_stored_outputs(run, tmp_path, monkeypatch):
  monkeypatch.setattr(folds.held_out, "__defaults__", (2,))
  feeds, stored = [], feed.from_trunk
  monkeypatch.setattr(feed, "from_trunk", lambda *args: feeds.append(stored(*args)) or feeds[-1])
  closed_form = {"head_epochs": Config().head_epochs, "refit": "always", "select": "fine_tuned"}
  found = run("bert", tmp_path / "cache", recipe="lp_ft", **closed_form)
  assert found["compared"] == {"estimate": "cross_validation", "folds": 2}
  # The measurement, the folds, and the final model.
  assert len(feeds) == 4
  assert len({id(made.network) for made in feeds}) == 1 and all(made.reads_trunk for made in feeds)


def test_whole_numbers_from_disk_give_the_online_logits(run, tmp_path, monkeypatch):
  """float32 on disk: the validation logits of an epoch, from disk and by the whole network, agree within 1e-4."""
  monkeypatch.setattr(trunk, "HALF_TOLERANCE", 0.0)
  seen = []
  compute_missing = trunk.TrunkFeatures.compute_missing

  def spy(self, directory, rows):
    compute_missing(self, directory, rows)
    seen.append((self._features.logits(rows), self.logits(rows)))

  monkeypatch.setattr(trunk.TrunkFeatures, "compute_missing", spy)
  run("bert", tmp_path / "cache")
  ((online, from_disk),) = seen
  assert len(online) > 50
  np.testing.assert_allclose(from_disk, online, atol=1e-4)
  assert (_trunks(tmp_path / "cache")[0] / "dtype").read_text() == "float32"


def test_what_float16_changes_is_seen_under_a_head_that_is_still_zero(run, tmp_path, caplog, monkeypatch):
  caplog.set_level(logging.INFO, "tl_app")
  monkeypatch.setattr(trunk, "HALF_TOLERANCE", 1e-9)
  run("bert", tmp_path / "cache", recipe="full")
  (store,) = _trunks(tmp_path / "cache")
  assert (store / "dtype").read_text() == "float32"
  assert "trunk features are stored as float32: float16 changes features by at most" in caplog.text


def test_a_damaged_row_is_computed_again(run, stored, caplog):
  caplog.set_level(logging.INFO, "tl_app")
  first, cache = stored("resnet")
  (rows,) = _trunks(cache)[0].glob("rows.f*")
  damaged = bytearray(rows.read_bytes())
  damaged[100] ^= 0x40
  rows.write_bytes(damaged)
  caplog.clear()
  again = run("resnet", cache)
  assert "features: 1 example computed in" in caplog.text
  assert again["candidates"] == first["candidates"]


def test_what_does_not_fit_runs_in_every_step(run, tmp_path, caplog):
  caplog.set_level(logging.INFO, "tl_app")
  run("resnet", tmp_path / "cache", feature_cache_gb=0.0)
  assert caplog.text.count("because of --feature_cache_gb=0 or a full disk") == 2
  assert "every run computes them" in caplog.text and "every step computes them" in caplog.text
  assert not list((tmp_path / "cache").glob("*/rows*"))


@pytest.mark.parametrize(
  ("text", "dtype"), [("", ""), ("float", ""), ("\xff", ""), ("float16", "float16"), ("float32", "float32")]
)
def test_half_of_a_format_is_none(tmp_path, text, dtype):
  assert trunk._stored_dtype(tmp_path) == ""
  (tmp_path / "dtype").write_text(text, encoding="latin-1")
  assert trunk._stored_dtype(tmp_path) == dtype


def test_of_two_runs_at_once_the_first_chooses_the_format(tmp_path, monkeypatch):
  made = trunk.TrunkFeatures.__new__(trunk.TrunkFeatures)
  made._tail = lambda x, training: {"features": x}
  monkeypatch.setattr(trunk.TrunkFeatures, "_unpack", lambda self, packed: packed)

  def while_another_measures(rows):
    (tmp_path / "dtype").write_text("float32")
    return np.eye(len(rows), dtype=np.float32)

  assert made._choose_dtype(tmp_path, np.arange(4), while_another_measures) == "float32"
  assert (tmp_path / "dtype").read_text() == "float32"
  (tmp_path / "dtype").unlink()
  assert made._choose_dtype(tmp_path, np.arange(4), lambda rows: np.eye(4, dtype=np.float32)) == "float16"


def test_a_killed_run_leaves_no_half_of_the_format(run, stored):
  first, cache = stored("resnet")
  (store,) = _trunks(cache)
  (store / "dtype").write_text("\xff", encoding="latin-1")
  again = run("resnet", cache)
  assert (store / "dtype").read_text() in ("float16", "float32")
  assert again["candidates"] == first["candidates"]


def test_older_features_are_evicted(run, stored):
  _, cache = stored("bert")
  (old,) = _trunks(cache)
  # Its own, and those of the probe.
  size = sum(file.stat().st_size for file in cache.glob("*/*")) / 1e9
  run("bert", cache, train_stages="top:2", feature_cache_gb=1.5 * size)
  (new,) = _trunks(cache)
  assert new != old


def test_one_epoch_is_not_worth_it_but_reads_what_is_there(run, stored, tmp_path, caplog):
  online = run("resnet", tmp_path / "empty", epochs=1)
  assert not _trunks(tmp_path / "empty")
  assert files.read_json(tmp_path / "run0/plan.json")["phases"][1]["epochs"] == 1
  _, cache = stored("resnet")
  caplog.set_level(logging.INFO, "tl_app")
  caplog.clear()
  from_disk = run("resnet", cache, epochs=1)
  # Those of the probe, and those below the stage that trains.
  assert caplog.text.count("examples read from") == 2 and "examples computed in" not in caplog.text
  assert from_disk["candidates"]["fine_tuned"]["loss"] == pytest.approx(
    online["candidates"]["fine_tuned"]["loss"], abs=2e-3
  )


def test_what_float16_does_not_hold_is_stored_as_float32(run, tmp_path, caplog, monkeypatch):
  caplog.set_level(logging.INFO, "tl_app")
  append, key, dtypes, facts = disk_cache.FeatureCache.append, disk_cache.key, [], []

  def overflow(self, hashes, rows):
    dtypes.append(self.dtype.name)
    append(self, hashes, [row * np.float32(1e9) for row in rows] if self.dtype == np.float16 else rows)

  monkeypatch.setattr(disk_cache.FeatureCache, "append", overflow)
  monkeypatch.setattr(disk_cache, "key", lambda **own: facts.append(own) or key(**own))
  run("resnet", tmp_path / "cache")
  (store,) = _trunks(tmp_path / "cache")
  assert dtypes == ["float32", "float16", "float32"]
  assert "float16 does not hold all of them" in caplog.text
  assert (store / "dtype").read_text() == "float32" and (store / "rows.f32").exists()
  assert not (store / "rows.f16").exists()
  # Both stores know the network by more than its weights.
  ((kind, network),) = {(own["kind"], own["network"]) for own in facts}
  assert len(facts) >= 2 and kind == "kerashub" and '"offset": [-0.5, -0.4, -0.3]' in network


def test_features_that_may_only_be_read_are_read(run, stored, caplog, monkeypatch):
  first, cache = stored("resnet")
  caplog.set_level(logging.INFO, "tl_app")
  caplog.clear()

  def read_only(path, mode="r", **kwargs):
    if mode != "r":
      raise PermissionError(13, "Permission denied", str(path))
    return open(path, mode, **kwargs)

  monkeypatch.setattr(disk_cache, "open", read_only, raising=False)
  again = run("resnet", cache)
  assert again["candidates"] == first["candidates"]
  assert caplog.text.count("may not be written") == 2 and "examples computed in" not in caplog.text
  # What is missing is computed, and what trains again and again runs in every step.
  other = run("resnet", cache, image_size=48)
  assert other["candidates"] != first["candidates"]
  assert len(list(cache.glob("*/rows*"))) == 2
