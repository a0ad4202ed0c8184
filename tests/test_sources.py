"""`data.load`: every form of --dataset, and what a bad one is told."""

import csv
import hashlib
import io
import json
import logging
import os
import pathlib
import tarfile

import pytest

from tl_app import data
from tl_app.config import Config
from tl_app.data import sources
from tl_app.errors import UserError

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


class LocalAssets:
  """Stands for `Assets` where nothing is fetched: `wheel` gives a directory that the test has filled."""

  def __init__(self, root):
    self.root = root

  def wheel(self, requirement, sha256, keep):
    assert requirement == "vaderSentiment==0.5"
    assert len(sha256) == 64
    return self.root


def looks_good(encoded):
  """A stand-in for the decoder: what begins with "good" is an image."""
  return None if encoded.startswith(b"good") else "it is damaged"


def load(name, verify=looks_good, assets=None, **flags):
  return data.load(Config(dataset=str(name), **flags), assets, verify)


def refusal(name, verify=looks_good, **flags):
  with pytest.raises(UserError) as caught:
    load(name, verify, **flags)
  message = str(caught.value)
  assert "\n" not in message
  return message


def write_images(root, *names, content=b"good"):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content + name.encode())
  return root


def write(path, text, encoding="utf-8"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.encode(encoding))
  return path


# The forms


@pytest.mark.parametrize(
  "name, words",
  [
    ("movie_review", ["did you mean movie_reviews?", "images:DIR", "table:PATH", "tfds:NAME"]),
    ("image:x", ["did you mean images?"]),
    ("images:", ["images:DIR"]),
    ("nonsense", ["movie_reviews, digits"]),
  ],
)
def test_unknown_form_lists_the_forms_and_the_nearest(name, words):
  message = refusal(name)
  assert f"--dataset={name}" in message
  for word in words:
    assert word in message


def test_a_path_without_its_form_is_told_the_form(tmp_path):
  assert f"did you mean images:{tmp_path}" in refusal(tmp_path)


# Starters


def test_movie_reviews_sign_of_the_rating_is_the_label(tmp_path):
  table = "1\t2.26\tA fine film\r\n2\t-0.6\tToo tepid\r\n3\t0.0\tNeither \u2019good\u2019 nor bad".encode()
  with tarfile.open(tmp_path / "hutto_ICWSM_2014.tar.gz", "w:gz") as tar:
    member = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
    member.size = len(table)
    tar.addfile(member, io.BytesIO(table))
  examples = load("movie_reviews", assets=LocalAssets(tmp_path))
  assert list(examples.labels) == ["positive", "negative", "negative"]
  assert list(examples.ids) == ["movie_reviews:1", "movie_reviews:2", "movie_reviews:3"]
  assert examples.inputs[2] == "Neither \u2019good\u2019 nor bad"
  assert examples.hashes[0] == hashlib.sha256(b"A fine film").hexdigest()
  assert examples.modality == "text"


def test_digits_are_png_of_eight_by_eight():
  import tensorflow as tf
  from sklearn.datasets import load_digits

  examples = load("digits", verify=None)
  assert len(examples) == 1797
  assert sorted(set(examples.labels)) == [str(digit) for digit in range(10)]
  image = tf.io.decode_png(examples.inputs[5]).numpy()
  assert image.shape == (8, 8, 1)
  assert (image[..., 0] / 255 * 16).round().tolist() == load_digits().images[5].tolist()


# images:DIR


def test_images_takes_the_class_from_the_folder(tmp_path):
  write_images(tmp_path, "b/1.JPG", "b/deep/2.png", "a/3.bmp", "Käse 日本/4.gif", "a/.hidden.jpg", ".git/5.jpg")
  write(tmp_path / "a" / "notes.txt", "not an image")
  examples = load(f"images:{tmp_path}")
  found = dict(zip(examples.ids, examples.labels))
  assert found == {"a/3.bmp": "a", "b/1.JPG": "b", "b/deep/2.png": "b", "Käse 日本/4.gif": "Käse 日本"}
  place = list(examples.ids).index("a/3.bmp")
  assert pathlib.Path(examples.inputs[place]).read_bytes() == b"gooda/3.bmp"
  assert examples.hashes[place] == hashlib.sha256(b"gooda/3.bmp").hexdigest()
  assert set(examples.splits) == {""}
  assert examples.modality == "image"
  assert "a/notes.txt" in examples.notes[0]


def test_images_reads_given_splits(tmp_path):
  write_images(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "Val/a/3.jpg", "test/b/4.jpg")
  examples = load(f"images:{tmp_path}")
  assert dict(zip(examples.ids, examples.splits)) == {
    "train/a/1.jpg": "train",
    "train/b/2.jpg": "train",
    "Val/a/3.jpg": "validation",
    "test/b/4.jpg": "test",
  }
  assert set(examples.labels) == {"a", "b"}


def test_images_a_class_may_be_called_train(tmp_path):
  write_images(tmp_path, "train/1.jpg", "bus/2.jpg")
  examples = load(f"images:{tmp_path}")
  assert list(examples.labels) == ["bus", "train"]
  assert set(examples.splits) == {""}


def test_images_follows_links_and_ends_at_loops(tmp_path):
  write_images(tmp_path / "store", "1.jpg")
  write_images(tmp_path / "set", "a/0.jpg")
  os.symlink(tmp_path / "store", tmp_path / "set" / "b")
  os.symlink(tmp_path / "set" / "a", tmp_path / "set" / "a" / "loop")
  assert list(load(f"images:{tmp_path / 'set'}").ids) == ["a/0.jpg", "b/1.jpg"]


def test_images_bad_ones_stop_or_are_listed(tmp_path):
  write_images(tmp_path, "a/1.jpg", "b/2.jpg")
  write_images(tmp_path, "a/broken.jpg", "b/also.jpg", content=b"bad")
  os.symlink(tmp_path / "nowhere", tmp_path / "b" / "dangling.png")
  message = refusal(f"images:{tmp_path}")
  assert "a/broken.jpg: it is damaged (3 of 5" in message
  assert "--on_bad_example=skip" in message
  examples = load(f"images:{tmp_path}", on_bad_example="skip")
  assert list(examples.ids) == ["a/1.jpg", "b/2.jpg"]
  assert [bad["id"] for bad in examples.skipped] == ["a/broken.jpg", "b/also.jpg", "b/dangling.png"]
  assert examples.skipped[0]["reason"] == "it is damaged"


def test_images_are_checked_with_the_decoder_of_training(tmp_path):
  import tensorflow as tf

  png = tf.io.encode_png(tf.fill([4, 4, 3], tf.constant(200, tf.uint8))).numpy()
  for name, content in {"a/whole.png": png, "a/cut.png": png[:-30], "b/empty.jpg": b"", "b/named.jpg": png}.items():
    write_images(tmp_path, name)
    (tmp_path / name).write_bytes(content)
  examples = load(f"images:{tmp_path}", verify=None, on_bad_example="skip")
  assert list(examples.ids) == ["a/whole.png", "b/named.jpg"]
  assert [bad["id"] for bad in examples.skipped] == ["a/cut.png", "b/empty.jpg"]


def test_images_empty_class_is_refused_unless_skipped(tmp_path):
  write_images(tmp_path, "a/1.jpg", "b/2.jpg")
  (tmp_path / "empty").mkdir()
  assert "empty/: the class folder has no images" in refusal(f"images:{tmp_path}")
  assert load(f"images:{tmp_path}", on_bad_example="skip").skipped[0]["id"] == "empty/"


def test_images_wrong_directories(tmp_path):
  flat = write_images(tmp_path / "flat", "1.jpg")
  mixed = write_images(tmp_path / "mixed", "train/a/1.jpg", "bus/2.jpg")
  double = write_images(tmp_path / "double", "val/a/1.jpg", "dev/a/2.jpg")
  unlabelled = write_images(tmp_path / "unlabelled", "train/a/1.jpg", "test/2.jpg")
  (tmp_path / "bare").mkdir()
  assert "there is no directory" in refusal(f"images:{tmp_path / 'missing'}")
  assert "is a file" in refusal(f"images:{flat / '1.jpg'}")
  assert "has images but no class folders" in refusal(f"images:{flat}")
  assert "has no class folders" in refusal(f"images:{tmp_path / 'bare'}")
  assert "mixes splits (train) with other folders (bus)" in refusal(f"images:{mixed}")
  assert "both the validation split" in refusal(f"images:{double}")
  assert "test has images but no class folders" in refusal(f"images:{unlabelled}")


def test_many_images_keep_their_order_and_show_progress(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(sources, "_PROGRESS_EVERY", 5)
  write_images(tmp_path, *(f"c{number % 2}/{number:02}.jpg" for number in range(12)))
  with caplog.at_level(logging.INFO, logger="tl_app"):
    examples = load(f"images:{tmp_path}")
  assert list(examples.ids) == sorted(examples.ids)
  assert len(examples) == 12
  assert "Checking images: 5 of 12" in caplog.text


# table:PATH


def test_table_directory_gives_splits_and_ignores_other_files(tmp_path):
  for name in ("train.tsv", "dev.tsv", "test.tsv", "train_small.tsv"):
    write(tmp_path / name, f"text\tlabel\nin {name}\tyes\n")
  write(tmp_path / "README.txt", "about")
  examples = load(f"table:{tmp_path}")
  assert list(examples.ids) == ["train.tsv:1", "dev.tsv:1", "test.tsv:1"]
  assert list(examples.splits) == ["train", "validation", "test"]


def test_table_of_one_file_has_no_splits(tmp_path):
  file = write(tmp_path / "all.tsv", "text\tlabel\nx\ta\ny\tb\n")
  for name in (file, tmp_path):
    examples = load(f"table:{name}")
    assert list(examples.ids) == ["all.tsv:1", "all.tsv:2"]
    assert set(examples.splits) == {""}


def test_tsv_has_no_quoting_and_no_missing_value_words(tmp_path):
  file = write(tmp_path / "t.tsv", '\ufefftext\tlabel\r\n"NA, he said\tNone\r\n\r\nnull\t1\r\nNaN\t1.0\r\n')
  examples = load(f"table:{file}")
  assert list(examples.inputs) == ['"NA, he said', "null", "NaN"]
  assert list(examples.labels) == ["None", "1", "1.0"]
  assert examples.ids[1] == "t.tsv:2"


def test_csv_has_quoting(tmp_path):
  long = "x" * 200_000
  with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("label", "text"), ("a", 'one, "two"\nthree'), ("NA", "null"), ("b", long)])
  examples = load(f"table:{tmp_path / 't.csv'}")
  assert list(examples.inputs) == ['one, "two"\nthree', "null", long]
  assert list(examples.labels) == ["a", "NA", "b"]


def test_jsonl_and_parquet_keep_whole_labels_whole(tmp_path):
  import pandas as pd

  frame = pd.DataFrame({"text": ["NA", "ü", "z"], "label": [1, 0, 12]})
  frame.to_parquet(tmp_path / "t.parquet")
  frame.assign(label=frame.label.astype(float)).to_parquet(tmp_path / "f.parquet")
  write(tmp_path / "t.jsonl", "\n".join(json.dumps(row) for row in frame.to_dict("records")) + "\n\n")
  for name in ("t.parquet", "f.parquet", "t.jsonl"):
    examples = load(f"table:{tmp_path / name}")
    assert list(examples.inputs) == ["NA", "ü", "z"]
    assert list(examples.labels) == ["1", "0", "12"]
  write(tmp_path / "b.jsonl", '{"text": "x", "label": true}\n{"label": false, "text": "y"}')
  assert list(load(f"table:{tmp_path / 'b.jsonl'}").labels) == ["true", "false"]


def test_table_bad_rows_stop_or_are_listed(tmp_path):
  file = write(tmp_path / "t.tsv", "text\tlabel\ngood\ta\n  \ta\nno label\t\nragged\ta\tb\nshort\nfine\tb\n")
  assert "t.tsv:2: the text is empty (4 of 6" in refusal(f"table:{file}")
  examples = load(f"table:{file}", on_bad_example="skip")
  assert list(examples.ids) == ["t.tsv:1", "t.tsv:6"]
  assert {bad["id"]: bad["reason"] for bad in examples.skipped} == {
    "t.tsv:2": "the text is empty",
    "t.tsv:3": "it has no label",
    "t.tsv:4": "line 5 has 3 fields, the header has 2",
    "t.tsv:5": "line 6 has 1 fields, the header has 2",
  }


def test_jsonl_bad_lines(tmp_path):
  file = write(
    tmp_path / "t.jsonl", '{"text": "x", "label": "a"}\n{oops\n[1]\n{"text": ["y"], "label": "b"}\n{"text": "z"}\n'
  )
  examples = load(f"table:{file}", on_bad_example="skip")
  assert list(examples.ids) == ["t.jsonl:1"]
  reasons = " | ".join(bad["reason"] for bad in examples.skipped)
  assert "line 2 is not JSON" in reasons
  assert "line 3 is not a JSON object" in reasons
  assert "a cell holds a list" in reasons
  assert "it has no label" in reasons


def test_table_of_image_paths(tmp_path):
  write_images(tmp_path, "pictures/1.jpg", "pictures/2.jpg")
  file = write(tmp_path / "t.csv", "image,label\npictures/1.jpg,a\npictures/2.jpg,b\npictures/3.jpg,b\n")
  assert "t.csv:3: cannot be read: No such file" in refusal(f"table:{file}")
  examples = load(f"table:{file}", on_bad_example="skip")
  assert examples.modality == "image"
  assert examples.inputs[1] == str(tmp_path / "pictures/2.jpg")
  assert list(examples.ids) == ["t.csv:1", "t.csv:2"]


def test_table_with_text_and_image_columns_wants_a_choice(tmp_path):
  write_images(tmp_path, "1.jpg", "2.jpg")
  file = write(tmp_path / "t.csv", "image,text,caption,label\n1.jpg,x,xx,a\n2.jpg,y,yy,b\n")
  message = refusal(f"table:{file}")
  assert "--image_column=" in message
  assert "--text_column=" in message
  assert load(f"table:{file}", image_column="").modality == "text"
  assert load(f"table:{file}", text_column="").modality == "image"
  assert list(load(f"table:{file}", text_column="caption").inputs) == ["xx", "yy"]


def test_missing_column_names_those_there_are(tmp_path):
  file = write(tmp_path / "t.csv", "texts,class\nx,a\n")
  message = refusal(f"table:{file}")
  assert "'text' (--text_column)" in message
  assert "texts, class" in message
  assert "did you mean texts?" in message
  assert "'label' (--label_column)" in refusal(f"table:{file}", text_column="texts")
  assert len(load(f"table:{file}", text_column="texts", label_column="class")) == 1


def test_unreadable_tables(tmp_path):
  latin = write(tmp_path / "latin.tsv", "text\tlabel\nfine\ta\nüber\tb\n", encoding="latin-1")
  quote = write(tmp_path / "quote.csv", 'text,label\n"open,a\nx,b\n')
  twice = write(tmp_path / "twice.csv", "text,text,label\nx,y,a\n")
  fake = write(tmp_path / "fake.parquet", "text")
  assert "latin.tsv is not UTF-8: byte 18 on line 3" in refusal(f"table:{latin}")
  assert "quote.csv, line 3" in refusal(f"table:{quote}")
  assert "'text' twice" in refusal(f"table:{twice}")
  assert "fake.parquet is not a Parquet file" in refusal(f"table:{fake}")
  assert "is empty" in refusal(f"table:{write(tmp_path / 'none.csv', '')}")
  assert "no rows" in refusal(f"table:{write(tmp_path / 'header.csv', 'text,label')}")
  assert "known are .csv, .tsv, .jsonl, .parquet" in refusal(f"table:{write(tmp_path / 'sheet.xlsx', '')}")
  assert "there is no file" in refusal(f"table:{tmp_path / 'missing.csv'}")


def test_table_directories_that_cannot_be_told(tmp_path):
  for name in ("two/train.tsv", "two/train.csv", "odd/one.tsv", "odd/other.tsv"):
    write(tmp_path / name, "text\tlabel\nx\ta\n")
  (tmp_path / "bare").mkdir()
  assert "train.csv and train.tsv are both the train split" in refusal(f"table:{tmp_path / 'two'}")
  assert "none of them named train" in refusal(f"table:{tmp_path / 'odd'}")
  assert "has no table" in refusal(f"table:{tmp_path / 'bare'}")


# --validation_dataset, --test_dataset


def test_extra_data_sets_take_the_place_of_splits(tmp_path):
  write(tmp_path / "d" / "train.tsv", "text\tlabel\nx\ta\ny\tb\n")
  write(tmp_path / "d" / "test.tsv", "text\tlabel\nold\ta\n")
  new = write(tmp_path / "new" / "train.tsv", "text\tlabel\nnew\ta\n")
  examples = load(f"table:{tmp_path / 'd'}", test_dataset=f"table:{new}", validation_dataset=f"table:{new}")
  assert list(examples.inputs) == ["x", "y", "new", "new"]
  assert list(examples.splits) == ["train", "train", "validation", "test"]
  assert len(set(examples.ids)) == 4
  assert "takes the place of the 1 test examples" in examples.notes[0]
  part = load(f"table:{new}", test_dataset=f"table:{tmp_path / 'd'}")
  assert list(part.inputs) == ["new", "old"]
  message = refusal(f"table:{new}", validation_dataset=f"table:{tmp_path / 'd'}")
  assert "none for validation" in message


def test_extra_data_set_of_another_kind_is_refused(tmp_path):
  write_images(tmp_path / "i", "a/1.jpg")
  file = write(tmp_path / "t.tsv", "text\tlabel\nx\ta\n")
  assert "--test_dataset" in refusal(f"table:{file}", test_dataset=f"images:{tmp_path / 'i'}")


# tfds:NAME


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  """A directory with two prepared sets: `small_images` 1.0.0 (train, test) and `small_texts` 2.1.0 (one split)."""
  import numpy as np
  import tensorflow_datasets as tfds

  class SmallImages(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "kind": tfds.features.ClassLabel(names=["cat", "ant"]),
        "file": tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "kind")
      )

    def _split_generators(self, dl_manager):
      return {name: self._generate_examples(start) for start, name in enumerate(["train", "test", "extra"])}

    def _generate_examples(self, start):
      for number in range(4):
        pixels = np.full((5, 4, 3), 10 * start + number, np.uint8)
        yield number, {"image": pixels, "kind": number % 2, "file": f"{number}.png"}

  class SmallTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("2.1.0")

    def _info(self):
      features = {"words": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["no", "yes"])}
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {"full": self._generate_examples()}

    def _generate_examples(self):
      for number in range(6):
        yield number, {"words": f"größe {number}", "label": number % 2 if number < 5 else -1}

  root = tmp_path_factory.mktemp("tfds")
  for builder in (SmallImages, SmallTexts):
    builder(data_dir=root).download_and_prepare()
  return root


def test_tfds_images_stay_encoded_in_files(tfds_dir, tmp_path):
  import tensorflow as tf

  flags = {"data_dir": str(tfds_dir), "offline": True, "verify": None, "assets": LocalAssets(tmp_path)}
  examples = load("tfds:small_images", **flags)
  assert list(examples.splits) == ["train"] * 4 + ["test"] * 4
  assert sorted(examples.labels[:4]) == ["ant", "ant", "cat", "cat"]
  assert list(examples.ids[:2]) == ["train:1", "train:2"]
  assert "extra" in examples.notes[0]
  for path, digest in zip(examples.inputs, examples.hashes):
    encoded = pathlib.Path(path).read_bytes()
    assert hashlib.sha256(encoded).hexdigest() == digest
    assert tf.io.decode_png(encoded).shape == (5, 4, 3)
  again = load("tfds:small_images:1.0.0", **flags)
  assert list(again.inputs) == list(examples.inputs)


def test_tfds_texts(tfds_dir):
  flags = {"data_dir": str(tfds_dir), "on_bad_example": "skip"}
  examples = load("tfds:small_texts", **flags)
  assert sorted(zip(examples.inputs, examples.labels)) == [
    (f"größe {number}", "yes" if number % 2 else "no") for number in range(5)
  ]
  assert set(examples.splits) == {""}
  assert [bad["reason"] for bad in examples.skipped] == ["it has no label"]
  names = load("tfds:small_images", text_column="file", label_column="kind", **flags)
  assert sorted(names.inputs[:4]) == ["0.png", "1.png", "2.png", "3.png"]


def test_tfds_refusals(tfds_dir):
  flags = {"data_dir": str(tfds_dir), "offline": True}
  assert "did you mean small_images?" in refusal("tfds:small_image", **flags)
  assert "did you mean mnist?" in refusal("tfds:mnits", **flags)
  assert "--offline" in refusal("tfds:mnist", **flags)
  assert "of small_texts there is: 2.1.0" in refusal("tfds:small_texts:9.9.9", **flags)
  assert "tfds:NAME[/CONFIG][:VERSION]" in refusal("tfds:two words", **flags)
  assert "--data_dir" in refusal("tfds:mnist", data_dir=str(tfds_dir / "missing"))
  assert "no feature 'wrods' (--text_column)" in refusal("tfds:small_texts", text_column="wrods", **flags)
  assert "cannot tell" in refusal("tfds:small_texts", text_column="label", **flags)


# Real data


@pytest.mark.skipif(not (SHARED / "data/banking77").exists(), reason="../shared/data/banking77 is absent")
def test_banking77():
  examples = load(f"table:{SHARED / 'data/banking77'}")
  assert len(examples) == 13_083
  assert len(set(examples.labels)) == 77


@pytest.mark.skipif(not (SHARED / "data/clinc150").exists(), reason="../shared/data/clinc150 is absent")
def test_clinc150_leaves_other_tables_alone():
  examples = load(f"table:{SHARED / 'data/clinc150'}")
  assert {id.split(":")[0] for id in examples.ids} == {"train.tsv", "dev.tsv", "test.tsv"}
  assert len(set(examples.labels)) == 151
