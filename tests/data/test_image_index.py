"""Images that were looked at before: not decoded again, and nothing false is taken for known."""

import contextlib
import hashlib
import io
import json
import logging
import sqlite3

import numpy as np
import PIL.Image
import pytest
import tiny_data

from tl_app import data
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.data.splitting import image_fingerprints, image_index
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


def test_other_rules_are_looked_at_anew(read_fingerprints, decoded, monkeypatch):
  first = read_fingerprints()
  monkeypatch.setattr(image_index, "RULES", image_index.RULES + 1)
  _assert_same(first, read_fingerprints())
  assert decoded == {"verify": len(first[0]), "image_facts": len(set(first[0].hashes))}


def _encoded(format, mode="RGB", **options):
  """Returns an image of 64 x 48 pixels in blocks of 2 x 2, encoded without loss."""
  blocks = np.arange(24 * 32 * 3, dtype=np.int64).reshape(24, 32, 3) ** 2 % 251
  pixels = blocks.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
  made = PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 257 if mode == "I;16" else pixels)
  file = io.BytesIO()
  (made if mode == "I;16" else made.convert(mode)).save(file, format, **options)
  return file.getvalue()


def test_the_number_of_the_rules_stands_for_what_is_found_by_them():
  turned, png = PIL.Image.Exif(), _encoded("PNG")
  turned[0x0112] = 6
  gif = _encoded("GIF", "L", save_all=True, append_images=[PIL.Image.new("L", (64, 48), 9)])
  images = [
    *(_encoded("PNG", mode) for mode in ("L", "1", "RGBA", "LA", "I;16")),
    *(png, _encoded("PNG", exif=turned), _encoded("BMP"), _encoded("BMP", "P"), _encoded("BMP", "1"), gif),
    *(_encoded("WEBP", lossless=True), _encoded("TIFF"), b"", b"text", png[:50], png[:300]),
    *(b"RIFF....WEBPVP8X....\2" + b"." * 20, png[:16] + b"\0\1\0\0\0\1\0\0" + png[24:]),
  ]
  found = [image_fingerprints.image_facts(encoded) for encoded in images]
  facts = [
    fact and fact._asdict() | {"spread": round(fact.spread, 2), "thumbnail": fact.thumbnail.tolist()} for fact in found
  ]
  text = json.dumps([facts, [image.verify(encoded) for encoded in images]])
  digest = hashlib.sha256(text.encode()).hexdigest()[:16]
  assert {image_index.RULES: digest} == {1: "fe1407bf6c47c998"}, "raise image_index.RULES, and write its digest here"


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
