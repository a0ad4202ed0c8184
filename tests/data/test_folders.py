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


def test_images_a_link_to_itself_is_a_bad_example(tmp_path):
  write_images(tmp_path, "a/1.jpg", "b/2.jpg")
  os.symlink(tmp_path / "a" / "loop.jpg", tmp_path / "a" / "loop.jpg")
  examples = load(f"images:{tmp_path}", on_bad_example="skip")
  assert [bad["id"] for bad in examples.skipped] == ["a/loop.jpg"]


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
  write(flat / "labels.csv", "image,label")
  assert f"if labels.csv tells their classes, pass --dataset=table:{flat}/labels.csv" in refusal(f"images:{flat}")


def test_archives_are_not_passed_over(tmp_path):
  root = write_images(tmp_path / "split", "train/a/1.jpg", "train/b/1.jpg")
  archive = write(root / "test.zip", "x")
  assert f"{archive} would not be read, but has the name of a split: unpack it" in refusal(f"images:{root}")
  archive.rename(root / "more.zip")
  assert "ignored: 1 (.zip 1), e.g. more.zip" in load(f"images:{root}").notes[0]
  assert "more.zip is a file: unpack it" in refusal(f"images:{root / 'more.zip'}")
  packed = write(tmp_path / "packed" / "all.tar.gz", "x").parent
  assert "packed has no class folders: unpack all.tar.gz" in refusal(f"images:{packed}")


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


def test_splits_may_have_other_names(tmp_path):
  for number, (train, test) in enumerate(
    [("Training", "Testing"), ("seg_train/seg_train", "seg_test/seg_test"), ("training_set", "test_set")]
  ):
    root = write_images(tmp_path / str(number), f"{train}/a/1.jpg", f"{train}/b/2.jpg", f"{test}/a/3.jpg")
    examples = load(f"images:{root}")
    assert dict(zip(examples.ids, examples.splits)) == {
      f"{train}/a/1.jpg": "train",
      f"{train}/b/2.jpg": "train",
      f"{test}/a/3.jpg": "test",
    }
    assert set(examples.labels) == {"a", "b"} and "read as splits" in examples.notes[0]
  root = write_images(tmp_path / "held", "train/a/1.jpg", "train/b/2.jpg", "Hold_out/a/3.jpg")
  assert sorted(load(f"images:{root}").splits) == ["test", "train", "train"]
  root = write_images(tmp_path / "case", "TRain/a/1.jpg", "TRain/b/2.jpg", "tEST/a/3.jpg")
  assert list(load(f"images:{root}").splits) == ["train", "train", "test"]
  root = write_images(tmp_path / "valid", "train/a/1.jpg", "train/b/1.jpg", "valid/a/2.jpg", "eval_set/a/3.jpg")
  assert "are both the validation split" in refusal(f"images:{root}")
  root = write_images(tmp_path / "pred", "seg_train/a/1.jpg", "seg_test/a/2.jpg", "seg_pred/3.jpg")
  other = write_images(tmp_path / "other", "Training/x/1.jpg", "Training/y/1.jpg", "Testing/z/2.jpg")
  assert "Testing and Training are named like splits, but have no class folder in common" in refusal(f"images:{other}")
  message = refusal(f"images:{root}")
  assert "mixes splits (seg_test, seg_train) with other folders (seg_pred)" in message
  assert f"--dataset=images:{root}/seg_train --test_dataset=images:{root}/seg_test" in message


def test_classes_may_be_named_like_splits(tmp_path):
  root = write_images(tmp_path, "train_station/1.jpg", "test_tube/2.jpg", "train_station/old/3.jpg")
  examples = load(f"images:{root}")
  assert set(examples.labels) == {"train_station", "test_tube"} and set(examples.splits) == {""}
  assert (
    "sub folders of a class folder, which count as its images: 1, e.g. train_station/old/3.jpg" in examples.notes[0]
  )


def test_a_single_folder_is_looked_through(tmp_path):
  write_images(tmp_path, "pets/PetImages/cat/1.jpg", "pets/PetImages/dog/2.jpg", "__MACOSX/pets/cat/1.jpg")
  examples = load(f"images:{tmp_path}")
  assert list(examples.labels) == ["cat", "dog"] and list(examples.splits) == ["", ""]
  assert "one folder, whose folders are read instead: PetImages" in examples.notes[1]
  write_images(tmp_path / "data", "set/train/cat/1.jpg", "set/train/dog/2.jpg")
  assert set(load(f"images:{tmp_path / 'data'}").splits) == {"train"}


def test_a_folder_between_splits_and_classes_is_looked_through(tmp_path):
  write_images(
    tmp_path, *(f"{split}/images/{c}/{i}.jpg" for split in ("train", "test") for c in "ab" for i in range(3))
  )
  examples = load(f"images:{tmp_path}")
  assert set(examples.labels) == {"a", "b"} and set(examples.splits) == {"train", "test"}
  assert "each split has one folder, whose folders are read instead: images" in examples.notes[0]


def test_a_level_of_folders_is_not_lost(tmp_path):
  sites = write_images(tmp_path / "sites", *(f"{site}/{name}/1.jpg" for site in ("north", "south") for name in "abc"))
  message = refusal(f"images:{sites}")
  assert "north and south" in message and "folders of the same names (a, b, c)" in message
  assert f"'images:{sites}/*/*'" in message and f"'images:{sites}/*'" in message
  assert set(load(f"images:{sites}/*").labels) == {"north", "south"}
  assert set(load(f"images:{sites}/*/*").labels) == {"a", "b", "c"}
  inside = write_images(tmp_path / "inside", "cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg", "dog/test/4.jpg")
  assert "hold the folders test and train: put the splits on top" in refusal(f"images:{inside}")
  # As Tiny ImageNet has it: a folder of the same name in every class.
  tiny = write_images(tmp_path / "tiny", "n01/images/1.jpg", "n02/images/2.jpg")
  assert set(load(f"images:{tiny}").labels) == {"n01", "n02"}


def test_a_class_in_the_folder_of_another_is_told(tmp_path):
  write_images(tmp_path, "cat/1.jpg", "dog/2.jpg", "cat/dog/3.jpg")
  assert f"{tmp_path}/cat/dog lies in the folder of the class cat and has the name of another" in refusal(
    f"images:{tmp_path}"
  )


def test_pictures_are_not_dropped_by_their_suffix(tmp_path):
  jpeg = b"\xff\xd8\xff\xe0 any"
  write_images(tmp_path, "a/1.jfif", "a/2.JPE", "a/3.jpg", "b/1.jpg")
  for name in ("a/4", "a/5.jpg_large", "a/6.tif"):
    (tmp_path / name).write_bytes(jpeg)
  for name in ("Thumbs.db", "desktop.ini", "notes.txt", "more.txt", "x.json"):
    write(tmp_path / "b" / name, "x")
  examples = load(f"images:{tmp_path}", verify=lambda _: None)
  assert list(examples.ids) == ["a/1.jfif", "a/2.JPE", "a/3.jpg", "a/4", "a/5.jpg_large", "a/6.tif", "b/1.jpg"]
  note = "files that are not images of a class, which are ignored: 3 (.txt 2, .json 1), e.g. b/more.txt"
  assert examples.notes == [note]


def test_pictures_that_tensorflow_does_not_decode_are_bad_examples(tmp_path):
  write_images(tmp_path, "a/1.jpg", "a/2.tif", "b/1.jpg", "b/2.HEIC")
  (tmp_path / "b" / "scan").write_bytes(b"II*\x00 a TIFF")
  message = refusal(f"images:{tmp_path}")
  assert "a/2.tif: TensorFlow does not decode .tif images: save it as PNG or JPEG (3 of 5" in message
  examples = load(f"images:{tmp_path}", on_bad_example="skip")
  assert [bad["id"] for bad in examples.skipped] == ["a/2.tif", "b/2.HEIC", "b/scan"]
  assert "a/2.tif: TensorFlow does not decode" in refusal(f"images:{tmp_path}/*/*")


def test_links_are_followed_and_those_that_lead_out_are_counted(tmp_path):
  write_images(tmp_path / "elsewhere", "1.jpg", "2.jpg", "more/3.jpg")
  photos = write_images(tmp_path / "photos", "cat/a.jpg", "dog/b.jpg")
  (photos / "cat" / "linked.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
  (photos / "cat" / "inside.jpg").symlink_to("../dog/b.jpg")
  (photos / "dog" / "more").symlink_to(tmp_path / "elsewhere/more")
  (photos / "dog" / "loop").symlink_to(photos / "dog")
  (photos / "dog" / "nowhere.jpg").symlink_to("gone.jpg")
  os.mkfifo(photos / "dog" / "pipe.jpg")
  os.mkfifo(photos / "dog" / "pipe")
  examples = load(f"images:{photos}", on_bad_example="skip")
  assert sorted(examples.ids) == ["cat/a.jpg", "cat/inside.jpg", "cat/linked.jpg", "dog/b.jpg", "dog/more/3.jpg"]
  (note,) = [note for note in examples.notes if "lead out" in note]
  assert "to 2 files, which are read, e.g. " in note and str(tmp_path / "elsewhere") in note
  (photos / "dog" / "nowhere.jpg").unlink()
  assert "it is a pipe, a socket or a device" in refusal(f"images:{photos}")


def test_a_glob_in_a_directory_whose_name_has_brackets(tmp_path):
  write_images(tmp_path, "set [1]/a/1.jpg", "set [1]/b/1.jpg", "set 1/c/1.jpg")
  assert list(load(f"images:{tmp_path}/set [1]/*").ids) == ["a/1.jpg", "b/1.jpg"]
  assert list(load(f"images:{tmp_path}/set [12]/*").ids) == ["set 1/c/1.jpg"]


def test_a_pointer_of_git_lfs_is_told(tmp_path):
  write_images(tmp_path, "a/1.jpg", content=b"version https://git-lfs.github.com/spec/v1\n")
  assert "is a pointer of Git LFS" in refusal(f"images:{tmp_path}", verify=None)
