"""Caches that are damaged, deleted or used by several processes: no wrong feature, and no crash."""

import resource
import shutil
import threading

import numpy as np
import pytest
import tiny_cache
from tiny_cache import DENIED, WIDTH, deny, network, read

from tl_app.features import disk_cache, eviction
from tl_app.features.disk_cache import FeatureCache


@pytest.fixture(name="hashes")
def fifty_hashes():
  return tiny_cache.hashes()


def test_a_flipped_byte_is_computed_again(tmp_path, hashes):
  compute = network([])
  first = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  path = tmp_path / "rows.f32"
  damaged = bytearray(path.read_bytes())
  damaged[7 * 4 * WIDTH + 2] ^= 0x40
  path.write_bytes(damaged)
  _, valid = read(FeatureCache(tmp_path, WIDTH), hashes)
  assert np.flatnonzero(~valid).tolist() == [7]
  np.testing.assert_array_equal(disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes)), first)


@pytest.mark.parametrize("cut", [3, 11, 2 * 4 * WIDTH + 1])
def test_a_killed_writer_loses_only_the_tail(tmp_path, hashes, cut):
  compute = network([])
  first = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  rows = tmp_path / "rows.f32"
  rows.write_bytes(rows.read_bytes()[:-cut])
  index = tmp_path / "index.f32.jsonl"
  index.write_bytes(index.read_bytes()[:-5])
  _, valid = read(FeatureCache(tmp_path, WIDTH), hashes)
  assert valid[:40].all()
  assert not valid[-1]
  np.testing.assert_array_equal(disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes)), first)
  assert read(FeatureCache(tmp_path, WIDTH), hashes)[1].all()


def test_any_flipped_bit_of_the_index_costs_at_most_a_computation(tmp_path, hashes):
  compute = network([])
  first = disk_cache.features(FeatureCache(tmp_path / "whole", WIDTH), hashes[:3], compute(hashes[:3]))
  size = (tmp_path / "whole" / "index.f32.jsonl").stat().st_size
  for bit in range(0, 8 * size, 7):
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    index = tmp_path / "damaged" / "index.f32.jsonl"
    damaged = bytearray(index.read_bytes())
    damaged[bit // 8] ^= 1 << bit % 8
    index.write_bytes(damaged)
    found = disk_cache.features(FeatureCache(tmp_path / "damaged", WIDTH), hashes[:3], compute(hashes[:3]))
    np.testing.assert_array_equal(found, first)
    shutil.rmtree(tmp_path / "damaged")


@pytest.mark.parametrize("line", [0, 3, 49])
def test_repairs_change_no_row_that_another_process_has_mapped(tmp_path, hashes, line):
  compute = network([])
  starts, _, rows = disk_cache.compute_missing(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  before, index = np.array(rows[starts]), tmp_path / "index.f32.jsonl"
  lines = index.read_text().split("\n")
  index.write_text("\n".join([*lines[:line], "damaged", *lines[line + 1 :]]))
  with open(tmp_path / "rows.f32", "ab") as file:
    file.write(b"a part of a row")
  other = hashes[::-1]
  found = disk_cache.features(FeatureCache(tmp_path, WIDTH), other, compute(other))
  np.testing.assert_array_equal(found, compute(other)(np.arange(50)))
  np.testing.assert_array_equal(rows[starts], before)
  assert read(FeatureCache(tmp_path, WIDTH), hashes)[1].all()


def test_the_dtypes_of_one_directory_do_not_share_an_index(tmp_path, hashes):
  whole, half = FeatureCache(tmp_path, WIDTH), FeatureCache(tmp_path, WIDTH, np.float16)
  calls = []
  for cache in (whole, half, whole, half):
    disk_cache.features(cache, hashes, network(calls)(hashes))
  assert calls == [50, 50, 8, 8]
  half.clear()
  assert half.missing(hashes).all() and not whole.missing(hashes).any()


def test_what_is_deleted_while_features_are_computed_is_computed_again(tmp_path, hashes):
  cache, calls = FeatureCache(tmp_path / "cache", WIDTH), []
  compute = network(calls)(hashes)

  def deleted(positions):
    if len(calls) == 2:
      shutil.rmtree(cache.directory)
    return compute(positions)

  starts, counts, rows = disk_cache.compute_missing(cache, hashes, deleted, chunk=20)
  np.testing.assert_array_equal(rows[starts], compute(np.arange(50)))
  assert (counts == 1).all() and calls == [20, 20, 10, 20, 20, 50]


def test_a_row_that_is_damaged_after_it_was_verified_is_computed_again(tmp_path, hashes, monkeypatch):
  cache, compute, find = FeatureCache(tmp_path, WIDTH), network([])(hashes), FeatureCache.find
  disk_cache.features(cache, hashes, compute)

  def damaged_later(self, hashes):
    found = find(self, hashes)
    with open(tmp_path / "rows.f32", "r+b") as file:
      file.seek(7 * 4 * WIDTH + 2)
      file.write(b"\xff")
    return found

  # The ninth example is none of those that are compared with new ones.
  monkeypatch.setattr(FeatureCache, "find", damaged_later)
  np.testing.assert_array_equal(disk_cache.features(cache, hashes[6:], lambda i: compute(i + 6)), compute(range(6, 50)))


def test_a_reader_uses_the_rows_that_it_verified(tmp_path, hashes, monkeypatch):
  compute = network([])(hashes)
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], compute)

  def while_another_writes(positions):
    if len(positions) == 20:
      monkeypatch.undo()
      FeatureCache(tmp_path, WIDTH).clear()
      disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[::-1], lambda i: compute(49 - i))
    return compute(positions)

  deny(monkeypatch, DENIED[0], tmp_path)
  starts, _, rows = disk_cache.compute_missing(FeatureCache(tmp_path, WIDTH), hashes, while_another_writes)
  np.testing.assert_array_equal(rows[starts], compute(np.arange(50)))


def test_a_full_disk_gets_back_the_space_of_what_did_not_fit(tmp_path, hashes, monkeypatch):
  cache, compute = FeatureCache(tmp_path, WIDTH), network([])(hashes)
  disk_cache.features(cache, hashes[:10], compute)
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (15 * 4 * WIDTH, limit[1]))
  try:
    with pytest.raises(OSError, match="rows.f32"):
      disk_cache.features(cache, hashes, compute)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  assert (tmp_path / "rows.f32").stat().st_size == 10 * 4 * WIDTH
  np.testing.assert_array_equal(disk_cache.features(cache, hashes, compute), compute(np.arange(50)))


def test_whoever_waited_for_a_directory_that_has_gone_gets_it_anew(tmp_path, hashes, monkeypatch):
  cache, compute, waiting = FeatureCache(tmp_path / "cache", WIDTH), network([]), threading.Event()
  monkeypatch.setattr(disk_cache.log, "info", lambda line, *_: waiting.set() if "waiting" in line else None)
  with cache.locked():
    writer = threading.Thread(target=lambda: disk_cache.features(cache, hashes, compute(hashes)))
    writer.start()
    assert waiting.wait(timeout=60)
    shutil.rmtree(cache.directory)
  writer.join()
  assert read(cache, hashes)[1].all()


def test_a_directory_that_goes_before_it_is_locked_comes_back(tmp_path, hashes, monkeypatch):
  cache, taken = FeatureCache(tmp_path / "cache", WIDTH), []

  def late(path, *args, **kwargs):
    if not taken:
      taken.append(path)
      shutil.rmtree(cache.directory)
    return open(path, *args, **kwargs)

  monkeypatch.setattr(disk_cache, "open", late, raising=False)
  disk_cache.features(cache, hashes, network([])(hashes))
  assert len(taken) == 1
  assert read(cache, hashes)[1].all()


def test_a_file_that_the_network_misses_is_told_as_such(tmp_path, hashes):
  cache = FeatureCache(tmp_path / "cache", WIDTH)

  def compute(positions):
    shutil.rmtree(cache.directory)
    raise FileNotFoundError("0007.jpg")

  with pytest.raises(FileNotFoundError, match="0007.jpg"):
    disk_cache.features(cache, hashes, compute)


@pytest.mark.parametrize("error", DENIED, ids=str)
def test_a_cache_that_may_only_be_read_is_read(tmp_path, hashes, monkeypatch, error):
  compute = network([])
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], compute(hashes))
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  deny(monkeypatch, error, tmp_path)
  calls, repeated = [], np.concatenate([hashes[20:], hashes[40:]])
  own = network(calls)(repeated)
  assert eviction.needs(FeatureCache(tmp_path, WIDTH), repeated, np.ones(40, int)) == (20, 30, False)
  found = disk_cache.features(FeatureCache(tmp_path, WIDTH), repeated, own)
  np.testing.assert_array_equal(found, compute(repeated)(np.arange(40)))
  assert calls == [8, 20]
  # Stale ones are computed too, but stay.
  fresh = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], lambda i: compute(hashes)(i) + 1)
  np.testing.assert_array_equal(fresh, compute(hashes)(np.arange(30)) + 1)
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_locks_a_cache_is_read_and_nothing_is_added(tmp_path, hashes, monkeypatch):
  compute = network([])
  disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], compute(hashes))
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  monkeypatch.setattr(disk_cache.locks, "acquire", lambda file, wait=False: disk_cache.Lock.NOT_AVAILABLE)
  calls = []
  found = disk_cache.features(FeatureCache(tmp_path, WIDTH), hashes, network(calls)(hashes))
  np.testing.assert_array_equal(found, compute(hashes)(np.arange(50)))
  assert calls == [8, 20] and {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_cache_that_cannot_be_made_is_none(tmp_path, hashes, monkeypatch):
  def refuse(*_, **__):
    raise DENIED[0]

  monkeypatch.setattr(disk_cache.pathlib.Path, "mkdir", refuse)
  found = disk_cache.features(FeatureCache(tmp_path / "cache", WIDTH), hashes, network([])(hashes))
  np.testing.assert_array_equal(found, network([])(hashes)(np.arange(50)))
  assert not list(tmp_path.iterdir())
