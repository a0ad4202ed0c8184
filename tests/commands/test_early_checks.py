"""A name, a file or a column that is missing is reported before TensorFlow starts."""

import subprocess
import sys

import pytest
from loading import write, write_images

from tl_app.commands import early_checks
from tl_app.config import Config
from tl_app.data.readers.table_formats import open_table
from tl_app.errors import UserError


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"dataset": "table:{}/missing.csv"}, "there is no file or directory"),
    ({"dataset": "table:{}/t.csv", "text_column": "date"}, "has neither a column 'date' .--text_column. nor 'image'"),
    ({"dataset": "table:{}/t.csv", "label_column": "lable"}, "no column 'lable' .* did you mean label"),
    ({"dataset": "table:{}/t.csv", "group_column": "who"}, "no column 'who'"),
    ({"dataset": "table:{}/t.csv", "test_dataset": "images:{}/nowhere"}, "--test_dataset=.* there is no directory"),
    ({"dataset": "tfrecord:{}/x.tfrecord"}, "there is no file or directory"),
    ({"dataset": "tfrecord:{}/*.tfrecord"}, "nothing that it takes matches"),
    ({"dataset": "tabel:{}/t.csv"}, "is not a data set that is known"),
    ({"dataset": "digits", "backbone": "resnet5.tfhub"}, "did you mean resnet50.tfhub"),
  ],
)
def test_what_is_not_there(tmp_path, flags, message):
  write(tmp_path / "t.csv", "text,label\nx,a\n")
  with pytest.raises(UserError, match=message):
    early_checks.run(Config(**{name: value.format(tmp_path) for name, value in flags.items()}))


def test_what_is_there(tmp_path, monkeypatch):
  opened = []
  monkeypatch.setattr(early_checks, "open_table", lambda file: opened.append(file.name) or open_table(file))
  write(tmp_path / "t.csv", "text,label\nx,a\n")
  write_images(tmp_path, "photos/a/1.jpg")
  write(tmp_path / "t.conll", "a\tO\n")
  for dataset in ("table:{}/t.csv", "table:{}/*.csv", "images:{}/photos", "images:{}/photos/*", "table:{}/t.conll"):
    early_checks.run(Config(dataset=dataset.format(tmp_path)))
  early_checks.run(Config(dataset="tfds:mnist"))
  # Nothing was raised, and the columns of the csv file were looked at each time.
  assert opened == ["t.csv", "t.csv"]


def test_what_evaluate_and_predict_are_given(tmp_path):
  file = write(tmp_path / "t.csv", "text,label\nx,a\n")
  run = Config(dataset="table:gone.csv", text_column="text")
  early_checks.evaluation(run, {})
  early_checks.evaluation(run, {"dataset": f"table:{file}"})
  with pytest.raises(UserError, match="there is no file"):
    early_checks.evaluation(run, {"dataset": "table:gone.csv"})
  columns = {"text_column": "text", "image_column": "image", "text_pair_column": ""}
  early_checks.prediction(str(tmp_path), "-", columns)
  with pytest.raises(UserError, match="--model=gone is not an export"):
    early_checks.prediction("gone", str(file), columns)
  with pytest.raises(UserError, match="--input=gone.txt: there is no such file"):
    early_checks.prediction(str(tmp_path), "gone.txt", columns)
  write(tmp_path / "assets.extra/tl_app.json", '{"modality": "text"}')
  early_checks.prediction(str(tmp_path), str(file), columns)
  with pytest.raises(UserError, match="t.csv has no column 'body' .--text_column. of texts, which the model reads"):
    early_checks.prediction(str(tmp_path), str(file), columns | {"text_column": "body"})


def test_they_import_no_tensorflow(tmp_path):
  file = write(tmp_path / "t.csv", "text,label\nx,a\n")
  code = (
    "import sys; from tl_app.commands import early_checks; from tl_app.config import Config; "
    f"early_checks.run(Config(dataset='table:{file}')); "
    "print({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules))"
  )
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
