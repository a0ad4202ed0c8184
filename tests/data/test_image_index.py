"""Images that were looked at before: not decoded again, and nothing false is taken for known."""

import contextlib
import logging
import sqlite3

import numpy as np
import pytest
import tiny_data

from tl_app import data
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.data.splitting import image_fingerprints
from tl_app.data.splitting.fingerprints import fingerprint
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.preprocessing import image


@pytest.fixture
def decoded(monkeypatch):
  """Counts how often an image is decoded, by training's decoder and by Pillow."""
  counts = {"verify": 0, "image_facts": 0}

  def count(module, name):
    real = getattr(module, name)

    def counted(encoded):
      counts[name] += 1
      return real(encoded)

    monkeypatch.setattr(module, name, counted)

  count(image, "verify")
  count(image_fingerprints, "image_facts")
  return counts


@pytest.fixture
def read_fingerprints(tmp_path, decoded):
  dataset = "images:" + tiny_data.colours(tmp_path / "colours")

  def read():
    decoded.update(verify=0, image_facts=0)
    examples = data.load(Config(dataset=dataset, cache_dir=str(tmp_path / "cache")), Assets(str(tmp_path / "cache")))
    return examples, fingerprint(examples, DecodedImageIndex(tmp_path / "cache"))

  return read


def _assert_same(first, again):
  for one, other in zip(first[1].facts, again[1].facts):
    assert one._replace(thumbnail=None) == other._replace(thumbnail=None)
    np.testing.assert_array_equal(one.thumbnail, other.thumbnail)
    assert one.thumbnail.dtype == other.thumbnail.dtype
  assert first[1].near.tolist() == again[1].near.tolist()


def test_a_second_start_decodes_nothing_and_finds_the_same(read_fingerprints, decoded, tmp_path):
  first = read_fingerprints()
  contents = len(set(first[0].hashes))
  assert decoded == {"verify": len(first[0]), "image_facts": contents}
  again = read_fingerprints()
  assert decoded == {"verify": 0, "image_facts": 0}
  _assert_same(first, again)
  new = next((tmp_path / "colours").rglob("*.png")).with_name("new.png")
  new.write_bytes(image.tf.io.encode_png(np.full((40, 40, 3), 7, np.uint8)).numpy())
  assert len(read_fingerprints()[0]) == len(first[0]) + 1
  assert decoded == {"verify": 1, "image_facts": 1}


@pytest.mark.parametrize(
  "statement", ["UPDATE seen SET found = replace(found, 'PNG', 'JPG')", "UPDATE seen SET by = 'tensorflow 1.0'"]
)
def test_a_changed_row_and_other_libraries_are_looked_at_anew(read_fingerprints, decoded, tmp_path, statement):
  first = read_fingerprints()
  with contextlib.closing(sqlite3.connect(tmp_path / "cache" / "images.sqlite")) as connection, connection:
    assert connection.execute(statement).rowcount > 0
  _assert_same(first, read_fingerprints())
  assert decoded["image_facts"] == len(set(first[0].hashes))
  read_fingerprints()
  assert decoded["image_facts"] == 0


def test_a_damaged_file_costs_time_and_no_more(read_fingerprints, decoded, tmp_path, caplog):
  first = read_fingerprints()
  (tmp_path / "cache" / "images.sqlite").write_bytes(b"no database" * 100)
  with caplog.at_level(logging.WARNING):
    _assert_same(first, read_fingerprints())
  assert decoded["verify"] == len(first[0])
  # Once, however often it is asked.
  assert caplog.text.count("images.sqlite: file is not a database") == 1 and "remove the file" in caplog.text


def test_a_cache_that_cannot_be_written_costs_time_and_no_more(read_fingerprints, decoded, tmp_path, caplog):
  (tmp_path / "cache/images.sqlite").mkdir(parents=True)
  with caplog.at_level(logging.WARNING):
    read_fingerprints()
  assert decoded["image_facts"] and "images are decoded again" in caplog.text and "remove the file" not in caplog.text
