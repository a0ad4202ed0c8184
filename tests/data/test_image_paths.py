"""Paths of images in a table that lead to a file nearly."""

import pathlib
import unicodedata

import pytest
from loading import load, refusal, write, write_images

NFC, NFD = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
  ("cell", "file"),
  [
    ("train\\cat\\1.jpg", "train/cat/1.jpg"),
    (".\\train\\cat\\1", "train/cat/1.jpg"),
    ("train/cat/1", "train/cat/1.jpg"),
    ("12", "12.PNG"),
    ("photo.v2", "photo.v2.jpeg"),
    (" 12.PNG ", "12.PNG"),
    ("train/cat/1.jpg?v=2", "train/cat/1.jpg"),
    (NFC, NFD),
    (NFD, NFC),
  ],
)
def test_a_path_that_can_mean_one_file_only_is_followed(tmp_path, cell, file):
  write_images(tmp_path, file)
  table = write(tmp_path / "t.csv", f"image,label\n{cell},a\n")
  assert [pathlib.Path(path).read_bytes() for path in load(f"table:{table}").inputs.array()] == [
    b"good" + file.encode()
  ]


@pytest.mark.parametrize(
  ("cell", "near"),
  [
    ("C:\\data\\train\\cat\\1.jpg", "train/cat/1.jpg"),
    ("/srv/photos/cat/1.jpg", "train/cat/1.jpg"),
    ("1.jpg", "train/cat/1.jpg"),
    ("images/1", "train/cat/1.jpg"),
    ("TRAIN/Cat/1.JPG", "train/cat/1.jpg"),
  ],
)
def test_a_path_of_another_place_is_told_what_is_near(tmp_path, cell, near):
  write_images(tmp_path, near)
  message = refusal(f"table:{write(tmp_path / 't.csv', f'image,label{chr(10)}{cell},a{chr(10)}')}")
  assert f"No such file or directory; {near} is there: write paths relative to the table" in message


def test_a_cell_that_holds_an_image_is_no_path(tmp_path):
  table = write(tmp_path / "t.csv", f"image,label\n{'iVBORw0K' * 200},a\n")
  message = refusal(f"table:{table}")
  assert "the cell is no path: it has 1,600 characters, 'iVBORw0KiVBORw0KiVBO'.." in message


def test_a_path_that_can_mean_two_files_is_not_followed(tmp_path):
  write_images(tmp_path, "1.jpg", "1.png")
  table = write(tmp_path / "t.csv", "image,label\n1,a\n")
  assert "1.jpg and 1.png are there" in refusal(f"table:{table}")
