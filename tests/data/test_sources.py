"""`data.load`: which form --dataset has, starter sets, and the extra data sets."""

import hashlib
import io
import tarfile

import pytest
from loading import LocalAssets, load, refusal, write, write_images


@pytest.mark.parametrize(
  "name, words",
  [
    ("movie_review", ["did you mean movie_reviews?", "images:DIR", "table:PATH", "tfds:NAME"]),
    ("image:x", ["did you mean images:x?"]),
    ("csv:mails.csv", ["did you mean table:mails.csv?"]),
    ("mails.csv", ["did you mean table:mails.csv?"]),
    ("tabel:x", ["did you mean table:x?"]),
    ("TABLE:x", ["did you mean table:x?"]),
    ("table", ["did you mean table:PATH?"]),
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


def test_movie_reviews_sign_of_the_rating_is_the_label(tmp_path):
  table = "1\t2.26\tA fine film\r\n2\t-0.6\tToo tepid\r\n3\t0.0\tNeither \u2019good\u2019 nor bad".encode()
  with tarfile.open(tmp_path / "hutto_ICWSM_2014.tar.gz", "w:gz") as tar:
    member = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
    member.size = len(table)
    tar.addfile(member, io.BytesIO(table))
  examples = load("movie_reviews", assets=LocalAssets(tmp_path))
  assert list(examples.labels) == ["positive", "negative", "negative"]
  assert list(examples.ids) == ["movie_reviews:1", "movie_reviews:2", "movie_reviews:3"]
  assert examples.inputs.array()[2] == "Neither \u2019good\u2019 nor bad"
  assert examples.hashes[0] == hashlib.sha256(b"A fine film").hexdigest()
  assert examples.modality == "text"


def test_digits_are_png_of_eight_by_eight():
  import tensorflow as tf
  from sklearn.datasets import load_digits

  examples = load("digits", verify=None)
  assert len(examples) == 1797
  assert sorted(set(examples.labels)) == [str(digit) for digit in range(10)]
  image = tf.io.decode_png(examples.inputs.array()[5]).numpy()
  assert image.shape == (8, 8, 1)
  assert (image[..., 0] / 255 * 16).round().tolist() == load_digits().images[5].tolist()


def test_extra_data_sets_take_the_place_of_splits(tmp_path):
  write(tmp_path / "d" / "train.tsv", "text\tlabel\nx\ta\ny\tb\n")
  write(tmp_path / "d" / "test.tsv", "text\tlabel\nold\ta\n")
  new = write(tmp_path / "new" / "train.tsv", "text\tlabel\nnew\ta\n")
  examples = load(f"table:{tmp_path / 'd'}", test_dataset=f"table:{new}", validation_dataset=f"table:{new}")
  assert list(examples.inputs.array()) == ["x", "y", "new", "new"]
  assert list(examples.splits) == ["train", "train", "validation", "test"]
  assert len(set(examples.ids)) == 4
  assert "replaces the test split of" in examples.notes[0]
  part = load(f"table:{new}", test_dataset=f"table:{tmp_path / 'd'}")
  assert list(part.inputs.array()) == ["new", "old"]
  message = refusal(f"table:{new}", validation_dataset=f"table:{tmp_path / 'd'}")
  assert "none for validation" in message


def test_extra_data_set_of_another_kind_is_refused(tmp_path):
  write_images(tmp_path / "i", "a/1.jpg")
  file = write(tmp_path / "t.tsv", "text\tlabel\nx\ta\n")
  assert "--test_dataset" in refusal(f"table:{file}", test_dataset=f"images:{tmp_path / 'i'}")


def test_a_data_set_that_is_named_twice_is_no_split(tmp_path):
  table = f"table:{tmp_path / 't.csv'}"
  write(tmp_path / "t.csv", "text,label\na b,x\nc d,y\n")
  assert f"--test_dataset={table} is --dataset itself" in refusal(table, test_dataset=table)
  assert "--validation_dataset=" in refusal(table, validation_dataset=table)
