"""Features come back as they went in, or are computed again."""

import numpy as np
import pytest

from tl_app import feature_cache
from tl_app.feature_cache import FeatureCache

WIDTH = 5


def _network(calls):
  def compute(hashes):
    def of(positions):
      calls.append(len(positions))
      return np.array([[int(hashes[i], 16) % 97 + j for j in range(WIDTH)] for i in positions], np.float32)

    return of

  return compute


@pytest.fixture
def hashes():
  return np.array([f"{i:064x}" for i in range(50)], dtype=object)


def test_second_read_computes_only_the_probes(tmp_path, hashes):
  calls = []
  compute = _network(calls)
  first = feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  again = feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes[::-1], compute(hashes[::-1]))
  np.testing.assert_array_equal(first, again[::-1])
  assert calls == [50, feature_cache.PROBES]


def test_new_examples_are_added(tmp_path, hashes):
  calls = []
  compute = _network(calls)
  feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes[:30], compute(hashes[:30]))
  feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  assert calls[-1] == 20
  _, valid = FeatureCache(tmp_path, WIDTH).read(hashes)
  assert valid.all()


def test_a_flipped_byte_is_computed_again(tmp_path, hashes):
  compute = _network([])
  first = feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  path = tmp_path / "rows.f32"
  damaged = bytearray(path.read_bytes())
  damaged[7 * 4 * WIDTH + 2] ^= 0x40
  path.write_bytes(damaged)
  _, valid = FeatureCache(tmp_path, WIDTH).read(hashes)
  assert np.flatnonzero(~valid).tolist() == [7]
  np.testing.assert_array_equal(feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes)), first)


@pytest.mark.parametrize("cut", [3, 11, 2 * 4 * WIDTH + 1])
def test_a_killed_writer_loses_only_the_tail(tmp_path, hashes, cut):
  compute = _network([])
  first = feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  rows = tmp_path / "rows.f32"
  rows.write_bytes(rows.read_bytes()[:-cut])
  index = tmp_path / "index.jsonl"
  index.write_bytes(index.read_bytes()[:-5])
  _, valid = FeatureCache(tmp_path, WIDTH).read(hashes)
  assert valid[:40].all()
  assert not valid[-1]
  np.testing.assert_array_equal(feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes)), first)
  assert FeatureCache(tmp_path, WIDTH).read(hashes)[1].all()


def test_other_features_than_stored_empty_the_cache(tmp_path, hashes):
  compute = _network([])
  feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes, compute(hashes))
  fresh = feature_cache.features(FeatureCache(tmp_path, WIDTH), hashes, lambda i: compute(hashes)(i) * 1.01)
  np.testing.assert_array_equal(fresh, compute(hashes)(np.arange(50)) * np.float32(1.01))
  stored, _ = FeatureCache(tmp_path, WIDTH).read(hashes)
  np.testing.assert_array_equal(stored, fresh)


def test_the_key_changes_with_every_fact():
  base = {"weights": "a", "pooling": "mean", "preprocessing": {"max_length": 64}}
  keys = {feature_cache.key(**base)} | {feature_cache.key(**base | {name: "other"}) for name in base}
  assert len(keys) == 4
