"""Which examples are usable."""

import json
import logging
import os

from loading import load, refusal, write, write_images

from tl_app.data.readers import verify as verify_lib
from tl_app.terminal import progress


def test_images_are_checked_with_the_decoder_of_training(tmp_path):
  import tensorflow as tf

  png = tf.io.encode_png(tf.fill([4, 4, 3], tf.constant(200, tf.uint8))).numpy()
  for name, content in {"a/whole.png": png, "a/cut.png": png[:-30], "b/empty.jpg": b"", "b/named.jpg": png}.items():
    write_images(tmp_path, name)
    (tmp_path / name).write_bytes(content)
  examples = load(f"images:{tmp_path}", verify=None, on_bad_example="skip")
  assert list(examples.ids) == ["a/whole.png", "b/named.jpg"]
  assert [bad["id"] for bad in examples.skipped] == ["a/cut.png", "b/empty.jpg"]


def test_many_images_keep_their_order_and_show_progress(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(verify_lib, "_BLOCK", 5)
  monkeypatch.setattr(progress._Lines, "interval", -1)
  write_images(tmp_path, *(f"c{number % 2}/{number:02}.jpg" for number in range(12)))
  with caplog.at_level(logging.INFO, logger="tl_app"):
    examples = load(f"images:{tmp_path}")
  assert list(examples.ids) == sorted(examples.ids)
  assert len(examples) == 12
  assert "reading images: 1 of 12" in caplog.text


def test_images_that_an_earlier_run_decoded_are_only_hashed(tmp_path):
  write_images(tmp_path, "a/1.jpg", "b/2.jpg")
  decoded = []

  def verify(encoded):
    decoded.append(encoded)

  first = load(f"images:{tmp_path}", verify=verify)
  write_images(tmp_path, "b/3.jpg")
  again = load(f"images:{tmp_path}", verify=verify, known=frozenset(first.hashes))
  assert sorted(decoded) == [b"gooda/1.jpg", b"goodb/2.jpg", b"goodb/3.jpg"]
  assert list(again.hashes[:2]) == list(first.hashes)


def test_a_class_that_skipping_empties_is_named(tmp_path):
  write_images(tmp_path, "a/1.jpg", "b/2.jpg", "b/3.jpg")
  write_images(tmp_path, "c/4.jpg", "b/5.jpg", content=b"bad")
  (tmp_path / "d").mkdir()
  notes = load(f"images:{tmp_path}", on_bad_example="skip").notes
  assert notes == ["classes without a usable example: 2, e.g. 'c', 'd'"]
  assert "all 2 are bad, e.g. c/4.jpg: it is damaged" in refusal(
    f"images:{write_images(tmp_path / 'all', 'c/4.jpg', 'd/4.jpg', content=b'bad')}", on_bad_example="skip"
  )


def test_a_label_that_is_not_unicode_is_bad(tmp_path):
  path = write(tmp_path / "t.jsonl", '{"text": "x", "label": "a"}\n{"text": "y", "label": "\\ud800"}\n')
  assert "t.jsonl:2: the label is not valid Unicode" in refusal(f"table:{path}")
  examples = load(f"table:{path}", on_bad_example="skip")
  json.dumps(examples.notes, ensure_ascii=False).encode("utf-8")


def test_a_name_that_is_not_utf8_is_told_in_utf8(tmp_path):
  write_images(tmp_path, "a/1.jpg", "b/2.jpg")
  (tmp_path / "a" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"good")
  (bad,) = load(f"images:{tmp_path}", on_bad_example="skip").skipped
  assert bad == {"id": "a/caf\ufffd.jpg", "reason": "the file name is not valid UTF-8"}
