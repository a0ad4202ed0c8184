"""Features come back as they went in, or are computed again."""

import errno
import os
import shutil
import threading

import numpy as np
import pytest

from tl_app import tasks
from tl_app.config import Config
from tl_app.data import training_data
from tl_app.data.examples import Examples, Inputs
from tl_app.data.splitting.splits import Splits
from tl_app.errors import RunFailed
from tl_app.features import disk_cache, eviction, frozen
from tl_app.features.disk_cache import FeatureCache
from tl_app.features.frozen import Features, FeatureStore
from tl_app.features.rows import FeatureRows
from tl_app.model.model import Model
from tl_app.workdir import Clock

WIDTH = 5


def _network(calls):
  def compute(hashes):
    def of(positions):
      calls.append(len(positions))
      return np.array([[int(hashes[i], 16) % 97 + j for j in range(WIDTH)] for i in positions], np.float32)

    return of

  return compute


def _read(cache, hashes):
  """Returns (float32 [n, width], bool [n]: which are stored whole) of examples with one position each."""
  starts, counts = cache.find(hashes)
  valid = counts == 1
  rows = np.zeros((len(hashes), cache.width), np.float32)
  rows[valid] = cache.rows()[starts[valid]]
  return rows, valid


@pytest.fixture
def hashes():
  return np.array([f"{i:064x}" for i in range(50)], dtype=object)


def test_second_read_computes_only_the_probes(tmp_path, hashes):
  calls = []
  compute = _network(calls)
  first = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  again = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[::-1], compute(hashes[::-1]))
  np.testing.assert_array_equal(first, again[::-1])
  assert calls == [50, disk_cache.PROBES]


def test_new_examples_are_added(tmp_path, hashes):
  calls = []
  compute = _network(calls)
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], compute(hashes[:30]))
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  assert calls[-1] == 20
  _, valid = _read(FeatureCache(tmp_path, WIDTH), hashes)
  assert valid.all()


def test_a_flipped_byte_is_computed_again(tmp_path, hashes):
  compute = _network([])
  first = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  path = tmp_path / "rows.f32"
  damaged = bytearray(path.read_bytes())
  damaged[7 * 4 * WIDTH + 2] ^= 0x40
  path.write_bytes(damaged)
  _, valid = _read(FeatureCache(tmp_path, WIDTH), hashes)
  assert np.flatnonzero(~valid).tolist() == [7]
  np.testing.assert_array_equal(disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes)), first)


@pytest.mark.parametrize("cut", [3, 11, 2 * 4 * WIDTH + 1])
def test_a_killed_writer_loses_only_the_tail(tmp_path, hashes, cut):
  compute = _network([])
  first = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  rows = tmp_path / "rows.f32"
  rows.write_bytes(rows.read_bytes()[:-cut])
  index = tmp_path / "index.jsonl"
  index.write_bytes(index.read_bytes()[:-5])
  _, valid = _read(FeatureCache(tmp_path, WIDTH), hashes)
  assert valid[:40].all()
  assert not valid[-1]
  np.testing.assert_array_equal(disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes)), first)
  assert _read(FeatureCache(tmp_path, WIDTH), hashes)[1].all()


def test_other_features_than_stored_empty_the_cache(tmp_path, hashes):
  compute = _network([])
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  fresh = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, lambda i: compute(hashes)(i) * 1.01)
  np.testing.assert_array_equal(fresh, compute(hashes)(np.arange(50)) * np.float32(1.01))
  stored, _ = _read(FeatureCache(tmp_path, WIDTH), hashes)
  np.testing.assert_array_equal(stored, fresh)


def test_the_key_changes_with_every_fact():
  base = {"weights": "a", "pooling": "mean", "preprocessing": {"max_length": 64}}
  keys = {disk_cache.key(**base)} | {disk_cache.key(**base | {name: "other"}) for name in base}
  assert len(keys) == 4


def test_any_flipped_bit_of_the_index_costs_at_most_a_computation(tmp_path, hashes):
  compute = _network([])
  first = disk_cache.features(FeatureCache(tmp_path / "whole", WIDTH), hashes[:3], compute(hashes[:3]))
  size = (tmp_path / "whole" / "index.jsonl").stat().st_size
  for bit in range(0, 8 * size, 7):
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    index = tmp_path / "damaged" / "index.jsonl"
    damaged = bytearray(index.read_bytes())
    damaged[bit // 8] ^= 1 << bit % 8
    index.write_bytes(damaged)
    found = disk_cache.features(FeatureCache(tmp_path / "damaged", WIDTH), hashes[:3], compute(hashes[:3]))
    np.testing.assert_array_equal(found, first)
    shutil.rmtree(tmp_path / "damaged")


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
  disk_cache.features(FeatureCache(directory, WIDTH), hashes, _network([])(hashes))
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


def test_whoever_waited_for_a_directory_that_has_gone_gets_it_anew(tmp_path, hashes, monkeypatch):
  cache, compute, waiting = FeatureCache(tmp_path / "cache", WIDTH), _network([]), threading.Event()
  monkeypatch.setattr(disk_cache.log, "info", lambda line, *_: waiting.set() if "waiting" in line else None)
  with cache.locked():
    writer = threading.Thread(target=lambda: disk_cache.features(cache, hashes, compute(hashes)))
    writer.start()
    assert waiting.wait(timeout=60)
    shutil.rmtree(cache.directory)
  writer.join()
  assert _read(cache, hashes)[1].all()


def test_a_directory_that_goes_before_it_is_locked_comes_back(tmp_path, hashes, monkeypatch):
  cache, taken = FeatureCache(tmp_path / "cache", WIDTH), []

  def late(path, *args, **kwargs):
    if not taken:
      taken.append(path)
      shutil.rmtree(cache.directory)
    return open(path, *args, **kwargs)

  monkeypatch.setattr(disk_cache, "open", late, raising=False)
  disk_cache.features(cache, hashes, _network([])(hashes))
  assert len(taken) == 1
  assert _read(cache, hashes)[1].all()


def test_a_file_that_the_network_misses_is_told_as_such(tmp_path, hashes):
  cache = FeatureCache(tmp_path / "cache", WIDTH)

  def compute(positions):
    shutil.rmtree(cache.directory)
    raise FileNotFoundError("0007.jpg")

  with pytest.raises(FileNotFoundError, match="0007.jpg"):
    disk_cache.features(cache, hashes, compute)


def test_equal_contents_are_computed_once(tmp_path, hashes):
  calls, repeated = [], hashes[[3, 1, 3, 3, 1, 2]]
  compute = _network(calls)(repeated)
  found = disk_cache.features(FeatureCache(tmp_path, WIDTH), repeated, compute)
  assert calls == [3] and (tmp_path / "rows.f32").stat().st_size == 3 * 4 * WIDTH
  np.testing.assert_array_equal(found, compute(np.arange(6)))


def test_space_is_needed_for_each_content_once(tmp_path, hashes):
  cache = FeatureCache(tmp_path, WIDTH)
  disk_cache.features(cache, hashes[:2], _network([])(hashes))
  repeated = hashes[[1, 2, 2, 3, 1]]
  assert eviction.needs(cache, repeated, np.array([10, 20, 20, 30, 10])) == (50, 60, True)


@pytest.mark.parametrize(("dtype", "apart", "kept"), [("float32", 5e-4, False), ("float16", 5e-4, True)])
def test_how_far_fresh_features_may_be_apart_is_of_the_format(tmp_path, hashes, caplog, dtype, apart, kept):
  cache = FeatureCache(tmp_path, WIDTH, dtype)
  compute = _network([])(hashes)
  disk_cache.features(cache, hashes, compute)
  disk_cache.features(cache, hashes, lambda i: compute(i) * (1 + np.float32(apart)))
  assert ("differ from new ones" in caplog.text) is not kept


def test_an_infinite_number_among_those_compared_hides_nothing(tmp_path, hashes):
  compute = _network([])(hashes)

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


DENIED = [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EROFS, "Read-only file system")]


def _deny(monkeypatch, error, below):
  """Opening anything below the path `below` for writing raises `error` from now on."""

  def guarded(path, mode="r", **kwargs):
    if below in path.parents and mode != "r":
      raise error
    return open(path, mode, **kwargs)

  monkeypatch.setattr(disk_cache, "open", guarded, raising=False)


@pytest.mark.parametrize("error", DENIED, ids=str)
def test_a_cache_that_may_only_be_read_is_read(tmp_path, hashes, monkeypatch, error):
  compute = _network([])
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], compute(hashes))
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  _deny(monkeypatch, error, tmp_path)
  calls, repeated = [], np.concatenate([hashes[20:], hashes[40:]])
  own = _network(calls)(repeated)
  assert eviction.needs(FeatureCache(tmp_path, WIDTH), repeated, np.ones(40, int)) == (20, 30, False)
  found = disk_cache.features(FeatureCache(tmp_path, WIDTH), repeated, own)
  np.testing.assert_array_equal(found, compute(repeated)(np.arange(40)))
  assert calls == [8, 20]
  # Stale ones are computed too, but stay.
  fresh = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], lambda i: compute(hashes)(i) + 1)
  np.testing.assert_array_equal(fresh, compute(hashes)(np.arange(30)) + 1)
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_locks_a_cache_is_read_and_nothing_is_added(tmp_path, hashes, monkeypatch):
  compute = _network([])
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], compute(hashes))
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  monkeypatch.setattr(disk_cache.locks, "acquire", lambda file, wait=False: disk_cache.Lock.NOT_AVAILABLE)
  calls = []
  found = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, _network(calls)(hashes))
  np.testing.assert_array_equal(found, compute(hashes)(np.arange(50)))
  assert calls == [8, 20] and {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_cache_that_cannot_be_made_is_none(tmp_path, hashes, monkeypatch):
  def refuse(*_, **__):
    raise DENIED[0]

  monkeypatch.setattr(disk_cache.pathlib.Path, "mkdir", refuse)
  found = disk_cache.features(FeatureCache(tmp_path / "cache", WIDTH), hashes, _network([])(hashes))
  np.testing.assert_array_equal(found, _network([])(hashes)(np.arange(50)))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", DENIED, ids=str)
def test_the_features_of_another_user_are_not_evicted(tmp_path, hashes, monkeypatch, error):
  own, size = _filled(tmp_path, "a", hashes)
  other, _ = _filled(tmp_path, "b", hashes, unused_for=100)
  _deny(monkeypatch, error, other)
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
