"""Frozen stages from disk: the same training as with the stages in every step, and nothing stale."""

import logging
import pathlib

import numpy as np
import pytest
import tiny_data
import tiny_modules
import tiny_presets

from tl_app import files
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.features import disk_cache, trunk

pytestmark = pytest.mark.slow

COPIES = {"augment": "light", "augment_copies": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("trunk")
  return {
    "bert": (
      tiny_presets.bert(root / "bert", list(tiny_modules.VOCABULARY)),
      "table:" + tiny_data.reviews(root / "reviews.csv"),
      "layer_2",
    ),
    "resnet": (tiny_presets.resnet(root / "resnet", 32), "images:" + tiny_data.colours(root / "colours"), "stack1"),
  }


@pytest.fixture
def run(world, tmp_path):
  numbers = iter(range(100))

  def train(kind, cache, **flags):
    backbone, dataset, stage = world[kind]
    config = Config(
      backbone=backbone,
      dataset=dataset,
      cache_dir=str(tmp_path),
      feature_cache=str(cache),
      **{"train_stages": f"{stage},head", "head_epochs": 5, "epochs": 3, "learning_rate": 1e-3, "export": False}
      | flags,
    )
    return train_lib.train_and_evaluate(config, tmp_path / f"run{next(numbers)}")

  return train


def _trunks(cache):
  return sorted(pathlib.Path(cache).glob("trunk-*"))


@pytest.mark.parametrize(("kind", "flags"), [("bert", {}), ("bert", COPIES), ("resnet", COPIES)], ids=str)
def test_training_from_disk_is_training_online(run, tmp_path, kind, flags):
  online = run(kind, "off", **flags)
  from_disk = run(kind, tmp_path / "cache", **flags)
  (store,) = _trunks(tmp_path / "cache")
  assert (store / "dtype").read_text() in ("float16", "float32")
  for name in ("fine_tuned", "averaged"):
    assert from_disk["candidates"][name]["loss"] == pytest.approx(online["candidates"][name]["loss"], abs=2e-3)
    assert from_disk["candidates"][name]["loss"] != pytest.approx(from_disk["candidates"]["probe"]["loss"], abs=1e-5)


def test_whole_numbers_from_disk_give_the_online_logits(run, tmp_path, monkeypatch):
  """float32 on disk: the validation logits of an epoch, from disk and by the whole network, agree within 1e-4."""
  monkeypatch.setattr(trunk, "HALF_TOLERANCE", 0.0)
  seen = []
  compute_missing = trunk.TrunkFeatures.compute_missing

  def spy(self, directory, rows):
    compute_missing(self, directory, rows)
    seen.append((self._features.logits(rows), self.logits(rows)))

  monkeypatch.setattr(trunk.TrunkFeatures, "compute_missing", spy)
  run("bert", tmp_path / "cache", epochs=2)
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


def test_a_damaged_row_is_computed_again(run, tmp_path, caplog):
  caplog.set_level(logging.INFO, "tl_app")
  first = run("resnet", tmp_path / "cache")
  (rows,) = _trunks(tmp_path / "cache")[0].glob("rows.f*")
  damaged = bytearray(rows.read_bytes())
  damaged[100] ^= 0x40
  rows.write_bytes(damaged)
  caplog.clear()
  again = run("resnet", tmp_path / "cache")
  assert "features: 1 examples computed in" in caplog.text
  assert again["candidates"] == first["candidates"]


def test_what_does_not_fit_runs_in_every_step(run, tmp_path, caplog):
  caplog.set_level(logging.INFO, "tl_app")
  run("resnet", tmp_path / "cache", feature_cache_gb=0.0, epochs=2)
  assert caplog.text.count("because of --feature_cache_gb=0 or a full disk") == 2
  assert "every run computes them" in caplog.text and "every step computes them" in caplog.text
  assert not list((tmp_path / "cache").glob("*/rows*"))


@pytest.mark.parametrize("text", ["", "float", "\xff"])
def test_a_killed_run_leaves_no_half_of_the_format(run, tmp_path, text):
  first = run("resnet", tmp_path / "cache")
  (store,) = _trunks(tmp_path / "cache")
  (store / "dtype").write_text(text, encoding="latin-1")
  again = run("resnet", tmp_path / "cache")
  assert (store / "dtype").read_text() in ("float16", "float32")
  assert again["candidates"] == first["candidates"]


def test_older_features_are_evicted(run, tmp_path, caplog):
  run("bert", tmp_path / "cache", epochs=2)
  (old,) = _trunks(tmp_path / "cache")
  # Its own, and those of the probe.
  size = sum(file.stat().st_size for file in (tmp_path / "cache").glob("*/*")) / 1e9
  run("bert", tmp_path / "cache", train_stages="top:2", epochs=2, feature_cache_gb=1.5 * size)
  (new,) = _trunks(tmp_path / "cache")
  assert new != old


def test_one_epoch_is_not_worth_it_but_reads_what_is_there(run, tmp_path, caplog):
  caplog.set_level(logging.INFO, "tl_app")
  online = run("resnet", tmp_path / "cache", epochs=1)
  assert not _trunks(tmp_path / "cache")
  assert files.read_json(tmp_path / "run0/plan.json")["phases"][1]["epochs"] == 1
  run("resnet", tmp_path / "cache", epochs=2)
  caplog.clear()
  from_disk = run("resnet", tmp_path / "cache", epochs=1)
  # Those of the probe, and those below the stage that trains.
  assert caplog.text.count("features read from") == 2 and "features: computing" not in caplog.text
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
  run("resnet", tmp_path / "cache", epochs=2)
  (store,) = _trunks(tmp_path / "cache")
  assert dtypes == ["float32", "float16", "float32"]
  assert "float16 does not hold all of them" in caplog.text
  assert (store / "dtype").read_text() == "float32" and (store / "rows.f32").exists()
  assert not (store / "rows.f16").exists()
  # Both stores know the network by more than its weights.
  ((kind, network),) = {(own["kind"], own["network"]) for own in facts}
  assert len(facts) >= 2 and kind == "kerashub" and '"offset": [-0.5, -0.4, -0.3]' in network


def test_features_that_may_only_be_read_are_read(run, tmp_path, caplog, monkeypatch):
  first = run("resnet", tmp_path / "cache", epochs=2)
  caplog.set_level(logging.INFO, "tl_app")
  caplog.clear()

  def read_only(path, mode="r", **kwargs):
    if mode != "r":
      raise PermissionError(13, "Permission denied", str(path))
    return open(path, mode, **kwargs)

  monkeypatch.setattr(disk_cache, "open", read_only, raising=False)
  again = run("resnet", tmp_path / "cache", epochs=2)
  assert again["candidates"] == first["candidates"]
  assert caplog.text.count("may not be written") == 2 and "features: computing" not in caplog.text
  # What is missing is computed, and what trains again and again runs in every step.
  other = run("resnet", tmp_path / "cache", epochs=2, image_size=48)
  assert other["candidates"] != first["candidates"]
  assert len(list((tmp_path / "cache").glob("*/rows*"))) == 2
