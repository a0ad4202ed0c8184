"""Features come back as they went in, or are computed again."""

import dataclasses
import os
import pathlib
import shutil
import types

import keras
import numpy as np
import pytest
import tiny_cache
import tiny_features
from tiny_cache import DENIED, WIDTH, deny, network, read

from tl_app import tasks
from tl_app.config import Config
from tl_app.data import training_data
from tl_app.data.examples import Examples, Inputs
from tl_app.data.splitting.splits import Splits
from tl_app.errors import RunFailed
from tl_app.features import disk_cache, eviction, frozen, trunk
from tl_app.features.disk_cache import FeatureCache
from tl_app.features.frozen import Features, FeatureStore
from tl_app.features.rows import FeatureRows
from tl_app.model.model import Model
from tl_app.workdir import Clock


@pytest.fixture(name="hashes")
def fifty_hashes():
  return tiny_cache.hashes()


def test_second_read_computes_only_the_probes(tmp_path, hashes):
  calls = []
  compute = network(calls)
  first = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  again = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[::-1], compute(hashes[::-1]))
  np.testing.assert_array_equal(first, again[::-1])
  assert calls == [50, disk_cache.PROBES]


def test_new_examples_are_added(tmp_path, hashes):
  calls = []
  compute = network(calls)
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], compute(hashes[:30]))
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  assert calls[-1] == 20
  _, valid = read(FeatureCache(tmp_path, WIDTH), hashes)
  assert valid.all()


def test_other_features_than_stored_empty_the_cache(tmp_path, hashes):
  compute = network([])
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  fresh = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, lambda i: compute(hashes)(i) * 1.01)
  np.testing.assert_array_equal(fresh, compute(hashes)(np.arange(50)) * np.float32(1.01))
  stored, _ = read(FeatureCache(tmp_path, WIDTH), hashes)
  np.testing.assert_array_equal(stored, fresh)


def test_the_key_changes_with_every_fact():
  base = {"weights": "a", "pooling": "mean", "preprocessing": {"max_length": 64}}
  keys = {disk_cache.key(**base)} | {disk_cache.key(**base | {name: "other"}) for name in base}
  assert len(keys) == 4


def test_features_of_an_older_format_are_not_read(monkeypatch):
  key = disk_cache.key(weights="a")
  monkeypatch.setattr(disk_cache, "_FORMAT", disk_cache._FORMAT + 1)
  assert disk_cache.key(weights="a") != key


def test_an_example_without_rows_is_stored_too(tmp_path, hashes):
  rows, calls = [np.ones((2, WIDTH), np.float32), np.zeros((0, WIDTH), np.float32)], []

  def compute(part):
    calls.append(part.tolist())
    return [rows[i] for i in part]

  for _ in range(2):
    starts, counts, _ = disk_cache.compute_missing(FeatureCache(tmp_path, WIDTH), hashes[:2], compute)
    assert counts.tolist() == [2, 0]
  assert calls == [[0, 1], [0]]


def _filled(root, name, hashes, unused_for=0):
  """Writes a cache of all `hashes`, so long unused, and returns (directory, bytes)."""
  directory = root / (name * 32)
  disk_cache.features(FeatureCache(directory, WIDTH), hashes, network([])(hashes))
  time = directory.stat().st_mtime - unused_for
  os.utime(directory, (time, time))
  return directory, sum(path.stat().st_size for path in directory.iterdir())


def test_the_longest_unused_features_are_evicted(tmp_path, hashes):
  old, size = _filled(tmp_path, "a", hashes, unused_for=200)
  newer, _ = _filled(tmp_path, "b", hashes, unused_for=100)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "photograph.jpg").write_bytes(b"0" * 10 * size)
  assert eviction.evict(tmp_path / ("c" * 32), size, size, 2.5 * size)
  assert not old.exists() and newer.exists() and (tmp_path / "mine" / "photograph.jpg").exists()
  assert not eviction.evict(tmp_path / ("c" * 32), size, size, 0.5 * size)
  assert newer.exists()


def test_features_leave_the_reserved_part_of_the_disk(tmp_path, hashes):
  own, size = _filled(tmp_path, "a", hashes)
  free = shutil.disk_usage(tmp_path).free
  assert eviction.evict(own, size, 2 * size, 10 * size, reserved=free // 2)
  assert not eviction.evict(own, size, 2 * size, 10 * size, reserved=2 * free)


def test_rows_of_other_examples_in_the_same_cache_are_evicted_too(tmp_path, hashes):
  own, size = _filled(tmp_path, "a", hashes)
  assert eviction.evict(own, size // 5, size // 5, 1.1 * size)
  assert [path.name for path in own.iterdir()] == ["lock"]
  assert FeatureCache(own, WIDTH).missing(hashes).all()


def test_what_is_stored_needs_no_space(tmp_path, hashes, monkeypatch):
  own, size = _filled(tmp_path, "a", hashes)
  other, _ = _filled(tmp_path, "b", hashes, unused_for=100)
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
  assert eviction.evict(own, 0, size, 0.0)
  assert not eviction.evict(own, 10 * size, 11 * size, 100 * size)
  assert other.exists()
  # A disk that is full is made free as well.
  assert eviction.evict(own, size // 2, size, 100 * size)
  assert not other.exists()


def test_what_another_run_writes_stays(tmp_path, hashes):
  own, size = _filled(tmp_path, "a", hashes)
  held, _ = _filled(tmp_path, "b", hashes, unused_for=100)
  with FeatureCache(held, WIDTH).locked():
    assert not eviction.evict(own, size, 2 * size, 2.5 * size)
  assert held.exists()


def test_equal_contents_are_computed_once(tmp_path, hashes):
  calls, repeated = [], hashes[[3, 1, 3, 3, 1, 2]]
  compute = network(calls)(repeated)
  found = disk_cache.features(FeatureCache(tmp_path, WIDTH), repeated, compute)
  assert calls == [3] and (tmp_path / "rows.f32").stat().st_size == 3 * 4 * WIDTH
  np.testing.assert_array_equal(found, compute(np.arange(6)))


def test_space_is_needed_for_each_content_once(tmp_path, hashes):
  cache = FeatureCache(tmp_path, WIDTH)
  disk_cache.features(cache, hashes[:2], network([])(hashes))
  repeated = hashes[[1, 2, 2, 3, 1]]
  assert eviction.needs(cache, repeated, np.array([10, 20, 20, 30, 10])) == (50, 60, True)


@pytest.mark.parametrize(("dtype", "apart", "kept"), [("float32", 5e-4, False), ("float16", 5e-4, True)])
def test_how_far_fresh_features_may_be_apart_is_of_the_format(tmp_path, hashes, caplog, dtype, apart, kept):
  cache = FeatureCache(tmp_path, WIDTH, dtype)
  compute = network([])(hashes)
  disk_cache.features(cache, hashes, compute)
  disk_cache.features(cache, hashes, lambda i: compute(i) * (1 + np.float32(apart)))
  assert ("differ from new ones" in caplog.text) is not kept


def test_an_infinite_number_among_those_compared_hides_nothing(tmp_path, hashes):
  compute = network([])(hashes)

  def infinite(positions):
    rows = compute(positions) + 1
    rows[positions == 0] = np.inf
    return rows

  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, infinite)
  found = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute)
  np.testing.assert_array_equal(found, compute(np.arange(len(hashes))))


def test_what_float16_does_not_hold_is_not_stored(tmp_path, hashes):
  cache = FeatureCache(tmp_path, WIDTH, np.float16)
  with pytest.raises(OverflowError), cache.locked():
    cache.append(hashes[:1], [np.full(WIDTH, 70000, np.float32)])
  assert cache.missing(hashes).all()


@pytest.mark.parametrize("error", DENIED, ids=str)
def test_the_features_of_another_user_are_not_evicted(tmp_path, hashes, monkeypatch, error):
  own, size = _filled(tmp_path, "a", hashes)
  other, _ = _filled(tmp_path, "b", hashes, unused_for=100)
  deny(monkeypatch, error, other)
  assert not eviction.evict(own, size, 2 * size, 2.5 * size)
  assert other.exists()


def test_what_could_not_be_removed_gives_no_space(tmp_path, hashes, monkeypatch):
  own, size = _filled(tmp_path, "a", hashes)
  _filled(tmp_path, "b", hashes, unused_for=100)
  monkeypatch.setattr(eviction.shutil, "rmtree", lambda path, ignore_errors: None)
  assert not eviction.evict(own, size, 2 * size, 2.5 * size)


def test_what_a_killed_run_left_goes_with_the_rows(tmp_path, hashes):
  own, size = _filled(tmp_path, "a", hashes)
  (own / ".dtype.abc").mkdir()
  (own / ".dtype.abc" / "dtype").write_text("float")
  assert eviction.evict(own, size // 5, size // 5, 1.1 * size)
  assert [path.name for path in own.iterdir()] == ["lock"]


IDS = np.array(["a", "b"], object)


def _features_of(rows, monkeypatch):
  """Returns the `Features` of two texts, one for training and one for validation, whose frozen features are `rows`."""
  examples = Examples(IDS, Inputs.of("text", IDS), *[IDS] * 3, [], "texts")
  split = Splits(examples, np.array([0]), np.array([1]), np.array([], int), [], {})
  data = training_data.make(examples, split, np.zeros((2, 4), np.int32))
  model = Model(None, None, frozenset(), frozenset(), None, None, tasks.TOKEN_CLASSIFICATION)
  monkeypatch.setattr(Features, "_per_token", lambda self: rows)
  return Features(model, data, None, FeatureStore(None, 0.0, "tensorflow"), 2, Clock())


def test_only_what_an_example_uses_must_be_finite(monkeypatch):
  rows = np.array([[np.nan, 1.0], [1.0, 2.0]], np.float32)
  found = FeatureRows(rows, np.array([1, 1]), np.array([1, 1]), 4)
  assert _features_of(found, monkeypatch).frozen() is found
  with pytest.raises(RunFailed, match="the features of b are not finite"):
    _features_of(FeatureRows(rows, np.array([1, 0]), np.array([1, 1]), 4), monkeypatch).frozen()


def test_frozen_features_are_computed_once(monkeypatch):
  features = _features_of(FeatureRows(np.ones((2, 3), np.float32), np.array([0, 1]), np.array([1, 1]), 4), monkeypatch)
  first = features.frozen()
  monkeypatch.setattr(Features, "_per_token", None)
  assert features.frozen() is first and features.clock.seconds.keys() == {"features"}


def test_a_directory_below_the_home_directory(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  store = frozen.store(Config(feature_cache="~/features", feature_cache_gb=2.5, frozen_engine="tensorflow"), tmp_path)
  assert store == FeatureStore(tmp_path / "features", 2.5, "tensorflow")
  assert frozen.store(Config(feature_cache="off"), tmp_path).directory is None
  own = frozen.store(Config(feature_cache="auto"), tmp_path / "cache")
  assert own.directory == tmp_path / "cache" / "features"


def _keys(**changes):
  """Returns the names of the cache and of the trunk cache of a network with two stages."""
  fact = {"low": 1.0, "top": 2.0, "kind": "kerashub", "network": "n", "pooling": "mean", "identity": "i", "length": 64}
  fact |= {"stage": "top"} | changes
  backbone = types.SimpleNamespace(
    stages={name: [keras.Variable(fact[name])] for name in ("low", "top")},
    cache_facts=lambda: {name: fact[name] for name in ("kind", "network")},
    spec=types.SimpleNamespace(pooling=fact["pooling"]),
    preprocess=types.SimpleNamespace(identity=fact["identity"], max_length=fact["length"]),
    feature_size=3,
  )
  model, store = types.SimpleNamespace(backbone=backbone), FeatureStore(pathlib.Path("cache"), 0.0, "tensorflow")
  features = Features(model, None, None, store, 2, Clock())
  return features._cache().directory.name, trunk._key(features, fact["stage"])


@pytest.mark.parametrize(
  ("change", "changes_features", "changes_trunk"),
  [
    ({"low": 1.5}, True, True),
    ({"top": 2.5}, True, False),
    ({"kind": "hub"}, True, True),
    ({"network": "other"}, True, True),
    ({"pooling": "cls"}, True, False),
    ({"identity": "other"}, True, True),
    ({"length": 32}, True, True),
    ({"stage": "low"}, False, True),
  ],
  ids=str,
)
def test_keys_change_with_what_changes_the_features(change, changes_features, changes_trunk):
  (features, trunk_features), (other, other_trunk) = _keys(), _keys(**change)
  assert (features != other, trunk_features != other_trunk) == (changes_features, changes_trunk)
  assert features != trunk_features


def test_a_backbone_tells_its_kind_and_its_network_apart():
  backbone = tiny_features.model().backbone
  facts = [backbone.cache_facts()]
  facts += [dataclasses.replace(backbone, identity="other").cache_facts()]
  facts += [dataclasses.replace(backbone, spec=dataclasses.replace(backbone.spec, kind="hub")).cache_facts()]
  assert len({str(sorted(fact.items())) for fact in facts}) == 3
