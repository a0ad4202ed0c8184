"""`images:DIR`: classes, splits, and what a bad directory is told."""

import hashlib
import os
import pathlib

from loading import load, refusal, write, write_images


def test_images_takes_the_class_from_the_folder(tmp_path):
  write_images(tmp_path, "b/1.JPG", "b/deep/2.png", "a/3.bmp", "Käse 日本/4.gif", "a/.hidden.jpg", ".git/5.jpg")
  write(tmp_path / "a" / "notes.txt", "not an image")
  examples = load(f"images:{tmp_path}")
  found = dict(zip(examples.ids, examples.labels))
  assert found == {"a/3.bmp": "a", "b/1.JPG": "b", "b/deep/2.png": "b", "Käse 日本/4.gif": "Käse 日本"}
  place = list(examples.ids).index("a/3.bmp")
  assert pathlib.Path(examples.inputs.array()[place]).read_bytes() == b"gooda/3.bmp"
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


def test_images_empty_class_is_refused_unless_skipped(tmp_path):
  write_images(tmp_path, "a/1.jpg", "b/2.jpg")
  (tmp_path / "empty").mkdir()
  assert "empty/: the class folder has no images (.jpg, " in refusal(f"images:{tmp_path}")
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


def test_globs_of_class_folders_and_of_images(tmp_path):
  write_images(
    tmp_path, "monday/cat/1.jpg", "monday/dog/1.jpg", "tuesday/cat/1.jpg", "tuesday/cat/2.png", "tuesday/a.jpg"
  )
  write(tmp_path / "tuesday" / "cat" / "notes.txt", "about")
  examples = load(f"images:{tmp_path}/*day/*")
  assert dict(zip(examples.ids, examples.labels)) == {
    "monday/cat/1.jpg": "cat",
    "monday/dog/1.jpg": "dog",
    "tuesday/a.jpg": "tuesday",
    "tuesday/cat/1.jpg": "cat",
    "tuesday/cat/2.png": "cat",
  }
  assert "not images" in examples.notes[0]
  assert list(load(f"images:{tmp_path}/**/*.png").ids) == ["tuesday/cat/2.png"]
  assert "nothing that it takes matches" in refusal(f"images:{tmp_path}/*/*.bmp")


def test_a_glob_does_not_mix_splits(tmp_path):
  write_images(tmp_path, "train/a/1.jpg", "test/a/2.jpg")
  assert "matches two splits, test/a and train/a" in refusal(f"images:{tmp_path}/*/*")
  assert list(load(f"images:{tmp_path}/tr*/*").labels) == ["a"]
