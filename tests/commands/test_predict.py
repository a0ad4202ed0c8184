"""Answers for new inputs: each in its place, the bad ones with their reason."""

import io
import json
import logging
import os
import shutil
import sys

import pandas as pd
import pytest
import tensorflow as tf
from loading import write

from tl_app import files, workdir
from tl_app.commands import answer_files
from tl_app.commands import predict as predict_lib
from tl_app.data.readers import unlabelled
from tl_app.errors import UserError
from tl_app.preprocessing import image

CLASSES = ["high", "low"]
TASK = {"name": "single_label", "names": CLASSES}


class _Answers(tf.Module):
  """The signature of an export: "high" is more than five characters, or a picture brighter than half."""

  def __init__(self, modality):
    super().__init__()
    self._modality = modality

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
  def serving_default(self, inputs):
    if self._modality == "text":
      high = tf.cast(tf.strings.length(inputs) > 5, tf.float32)
    else:
      high = tf.map_fn(self._brightness, inputs, fn_output_signature=tf.float32)
    probabilities = tf.stack([high, 1 - high], axis=1)
    label = tf.gather(tf.constant(CLASSES), tf.argmax(probabilities, axis=-1))
    return {"label": label, "score": tf.reduce_max(probabilities, axis=-1), "probabilities": probabilities}

  def _brightness(self, encoded):
    return tf.reduce_mean(image.resize(image.decode(encoded), 4))


def _export(directory, modality):
  module = _Answers(modality)
  tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serving_default})
  files.write_json(directory / workdir.EXPORT_FACTS, {"modality": modality, "pairs": False, "task": TASK})
  return directory


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
  return {name: _export(tmp_path_factory.mktemp(name) / "export", name) for name in ("text", "image")}


@pytest.fixture
def answer(exports, tmp_path):
  """Returns a function, (modality, source, **flags) -> list of answers."""

  def predict(modality, source, **flags):
    output = tmp_path / "answers.jsonl"
    predict_lib.predict(exports[modality], str(source), str(output), **flags)
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]

  return predict


def _png(level, size=6):
  return tf.io.encode_png(tf.fill([size, size, 3], tf.constant(level, tf.uint8))).numpy()


def _pairs(answers):
  return [(line["id"], line.get("label", line.get("error"))) for line in answers]


def test_texts_one_a_line(answer, tmp_path):
  path = tmp_path / "t.txt"
  path.write_bytes("\ufeffkurz\r\n\nlang genug\n".encode() + b"caf\xe9\nlonger than that")
  answers = answer("text", path, batch_size=2)
  assert _pairs(answers) == [
    ("t.txt:1", "low"),
    ("t.txt:2", "the text is empty"),
    ("t.txt:3", "high"),
    ("t.txt:4", "the text is not UTF-8"),
    ("t.txt:5", "high"),
  ]
  assert answers[2] == {
    "id": "t.txt:3",
    "label": "high",
    "score": 1.0,
    "probabilities": {"high": 1.0, "low": 0.0},
  }


def test_texts_in_utf_16_are_not_answered(answer, tmp_path):
  path = tmp_path / "t.txt"
  path.write_bytes("kurz\r\nlang genug\r\n".encode("utf-16"))
  reasons = {line.get("error") for line in answer("text", path)}
  assert reasons == {"it holds NUL bytes: save it as UTF-8"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_need_no_label(answer, tmp_path, suffix):
  frame = pd.DataFrame({"n": [1, 2, 3], "words": ["a", "größer als das", ""]})
  path = tmp_path / f"t{suffix}"
  if suffix == ".parquet":
    frame.to_parquet(path)
  elif suffix == ".jsonl":
    frame.to_json(path, orient="records", lines=True)
  else:
    frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
  answers = answer("text", path, text_column="words")
  # The line of the file: the header of a .csv or .tsv is the first.
  first = 2 if suffix in (".csv", ".tsv") else 1
  expected = ("low", "high", "the text is empty")
  assert _pairs(answers) == [(f"t{suffix}:{first + i}", label) for i, label in enumerate(expected)]


def test_a_table_row_that_cannot_be_read_keeps_its_place(answer, tmp_path):
  path = write(
    tmp_path / "t.jsonl", '{"text": "x"}\n{oops\n{"text": ["y"]}\n{"text": "\\ud800"}\n{"text": "zzzzzzzz"}\n'
  )
  answers = answer("text", path)
  assert [line.get("label") for line in answers] == ["low", None, None, None, "high"]
  assert "not JSON" in answers[1]["error"]
  assert "a cell holds a list" in answers[2]["error"]
  assert "not valid Unicode" in answers[3]["error"]


def test_a_directory_of_images(answer, tmp_path):
  root = tmp_path / "in"
  (root / "deep").mkdir(parents=True)
  for name, content in {
    "b.png": _png(250),
    "a.JPG": _png(10),
    "deep/c.png": _png(240),
    "cut.png": _png(0, 64)[:-40],
    "empty.jpg": b"",
    "notes.txt": b"x",
    ".hidden.png": _png(0),
  }.items():
    (root / name).write_bytes(content)
  os.symlink(root / "gone", root / "dangling.png")
  answers = dict(_pairs(answer("image", root, batch_size=2)))
  assert list(answers) == ["a.JPG", "b.png", "cut.png", "dangling.png", "deep/c.png", "empty.jpg"]
  assert [answers[name] for name in ("a.JPG", "b.png", "deep/c.png")] == ["low", "high", "high"]
  assert answers["cut.png"] == "it is truncated or damaged"
  assert answers["empty.jpg"] == "it is empty"
  assert "cannot be read: No such file" in answers["dangling.png"]


def test_one_image_and_a_table_of_images(answer, tmp_path):
  (tmp_path / "p").mkdir()
  (tmp_path / "p" / "photo").write_bytes(_png(255))
  assert _pairs(answer("image", tmp_path / "p" / "photo")) == [("photo", "high")]
  table = write(tmp_path / "t.csv", "file\np/photo\np/gone.png\n\n")
  answers = answer("image", table, image_column="file")
  assert _pairs(answers)[0] == ("t.csv:2", "high")
  assert f"{tmp_path}/p/gone.png cannot be read" in answers[1]["error"]


def test_standard_input_is_answered_as_it_comes(exports, monkeypatch, capfd):
  seen = []

  def typing():
    for text in (b"first\n", b"a second one\n", b"third"):
      seen.append(capfd.readouterr().out)
      yield text

  class Typed:
    buffer = typing()

  monkeypatch.setattr(sys, "stdin", Typed)
  # A file of its own: pytest's stand-in for standard output is not the process's.
  with open(1, "w", closefd=False) as stdout:
    monkeypatch.setattr(sys, "stdout", stdout)
    predict_lib.predict(exports["text"], "-", batch_size=1)
  assert [json.loads(part)["id"] for part in [*seen[1:], capfd.readouterr().out]] == ["-:1", "-:2", "-:3"]


@pytest.mark.parametrize(
  ("modality", "source", "message"),
  [
    ("text", "gone.txt", "there is no such file"),
    ("text", "p", "is a directory, but the model reads texts: give a .txt"),
    ("text", "x.png", "is an image, but the model reads texts"),
    ("text", "notes.md", "is not a .txt, but the model reads texts"),
    ("text", "t.csv", r"no column 'text' \(--text_column\) of texts.*did you mean texts"),
    ("image", "t.txt", "is texts, but the model reads images: give an image, a directory"),
    ("text", "none.txt", "has no inputs"),
    ("text", "none.csv", "has no inputs"),
    ("image", "-", "is texts, but the model reads images"),
    ("image", "p", r"has no images \(.jpg.*1 other file"),
    ("image", "t.csv", r"no column 'image' \(--image_column\) of images"),
  ],
)
def test_an_input_that_does_not_fit_is_told_before_anything_is_written(exports, tmp_path, modality, source, message):
  (tmp_path / "p").mkdir()
  for name in ("p/README", "t.txt", "x.png", "notes.md"):
    write(tmp_path / name, "x\n")
  write(tmp_path / "t.csv", "texts\nx\n")
  write(tmp_path / "none.txt", "")
  write(tmp_path / "none.csv", "text\n")
  path = source if source == "-" else str(tmp_path / source)
  with pytest.raises(UserError, match=message) as caught:
    predict_lib.predict(exports[modality], path, str(tmp_path / "out.jsonl"))
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one_is_refused(exports, size):
  with pytest.raises(UserError, match=f"--batch_size={size}: use 1 or more"):
    predict_lib.predict(exports["text"], "-", batch_size=size)


def test_a_written_output_is_named(exports, tmp_path, caplog):
  table, output = write(tmp_path / "t.csv", 'text\nfine\n""\n'), tmp_path / "out.csv"
  with caplog.at_level(logging.INFO, "tl_app"):
    predict_lib.predict(exports["text"], str(table), str(output))
  assert caplog.messages == [
    f"2 answers written to {output}",
    'inputs without an answer: 1 of 2; see their "error"',
  ]


def test_output_is_whole_or_as_it_was(exports, tmp_path):
  output = write(tmp_path / "out.jsonl", "before\n")
  table = write(tmp_path / "t.csv", 'text\nfine\n"open\n')
  with pytest.raises(UserError, match="a quote is not closed"):
    predict_lib.predict(exports["text"], str(table), str(output), batch_size=1)
  assert output.read_text() == "before\n"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "t.csv"]
  with pytest.raises(UserError, match="is a directory: name a file"):
    predict_lib.predict(exports["text"], str(table), str(tmp_path))


@pytest.mark.parametrize(
  ("name", "flags", "message"),
  [
    ("t.csv", {}, "is the file of --input, which the answers would replace"),
    ("link.csv", {}, "is the file of --input, which the answers would replace"),
    ("t.xlsx", {}, "answers are not written as .xlsx: name a .csv or a .jsonl file"),
    ("t.csv.gz", {}, "answers are not written as .csv.gz"),
    ("new.csv", {"image_column": "path"}, "--image_column=path, but the model reads texts: remove the flag"),
  ],
)
def test_an_output_that_would_be_lost_and_a_flag_without_effect(exports, tmp_path, name, flags, message):
  table = write(tmp_path / "t.csv", "text,note\nfine,keep\n")
  (tmp_path / "link.csv").symlink_to(table)
  with pytest.raises(UserError, match=message):
    predict_lib.predict(exports["text"], str(table), str(tmp_path / name), **flags)
  assert table.read_text() == "text,note\nfine,keep\n"


def test_a_directory_that_is_no_export(exports, tmp_path):
  with pytest.raises(UserError, match="is not an export of tl_app"):
    predict_lib.predict(tmp_path, "x.txt")
  broken = tmp_path / "broken"
  files.write_json(broken / workdir.EXPORT_FACTS, {"modality": "text", "pairs": False, "task": TASK})
  (broken / "saved_model.pb").write_bytes(b"damaged")
  with pytest.raises(UserError, match="holds no readable SavedModel: saved_model.pb is damaged"):
    predict_lib.predict(broken, str(write(tmp_path / "x.txt", "x\n")))


def test_terminals_of_any_locale_get_utf8(exports, tmp_path, monkeypatch):
  path = write(tmp_path / "größe.txt", "x\n")
  raw = io.BytesIO()
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
  predict_lib.predict(exports["text"], str(path))
  assert json.loads(raw.getvalue())["id"] == "größe.txt:1"


def test_only_the_highest_probabilities_are_written(answer, tmp_path, monkeypatch):
  (tmp_path / "t.txt").write_text("kurz\n")
  assert list(answer("text", tmp_path / "t.txt")[0]["probabilities"].items()) == [("high", 0.0), ("low", 1.0)]
  assert answer("text", tmp_path / "t.txt", top=1)[0]["probabilities"] == {"low": 1.0}
  monkeypatch.setattr(predict_lib, "MANY_CLASSES", 1)
  assert list(answer("text", tmp_path / "t.txt")[0]["probabilities"]) == ["low", "high"]


def test_inputs_in_memory_are_answered_in_order_by_an_export_that_is_loaded_once(exports, tmp_path):
  texts = predict_lib.Predictor(exports["text"])
  for inputs, labels in ((["no", "certainly", "  "], ["low", "high", None]), ([], [])):
    rows = unlabelled.from_values(inputs, "text", pairs=False)
    answers = [answer for batch in texts.answers(rows, batch_size=2) for answer in batch]
    assert [answer.get("label") for answer in answers] == labels
    assert [answer["id"] for answer in answers] == [str(i) for i in range(len(inputs))]
  white = _png(255)
  (tmp_path / "white.png").write_bytes(white)
  rows = unlabelled.from_values([white, str(tmp_path / "white.png"), tmp_path / "absent.png"], "image", pairs=False)
  (answers,) = predict_lib.Predictor(exports["image"]).answers(rows)
  assert [answer.get("label") for answer in answers] == ["high", "high", None]
  assert answers[2]["error"] == f"{tmp_path}/absent.png cannot be read: No such file or directory"
  for value, modality, pairs in (([1], "text", False), (["one"], "text", True), ([["a", "b"]], "image", False)):
    with pytest.raises(UserError, match="^input 0 is not "):
      next(unlabelled.from_values(value, modality, pairs))


def test_cells_of_an_answer_hold_the_next_best_class_or_the_numbers():
  answer = {"id": "0", "label": "b", "score": 0.5, "probabilities": {"a": 0.1, "b": 0.5, "c": 0.4}}
  assert answer_files.cells(answer) == {"label": "b", "score": 0.5, "next_label": "c", "next_score": 0.4}
  assert answer_files.cells({"id": "0", "values": {"x": 1.0, "y": 2.0}}) == {"x": 1.0, "y": 2.0}
  # A target whose name is that of another column.
  assert answer_files.cells({"id": "0", "values": {"error": 1.0}}) == {"error prediction": 1.0}
  assert answer_files.cells({"id": "0", "labels": ["a"], "score": 0.5, "probabilities": {"a": 0.5}}) == {
    "labels": ["a"],
    "score": 0.5,
  }
  assert answer_files.cells({"id": "0", "error": "it is empty"}) == {"error": "it is empty"}


def test_a_csv_has_the_text_and_the_best_two_classes(exports, tmp_path):
  table = write(tmp_path / "t.tsv", "words\tother\nkurz\t1\nlang, genug\t2\n")
  output = tmp_path / "answers.CSV"
  predict_lib.predict(exports["text"], str(table), str(output), text_column="words", batch_size=1)
  assert output.read_text() == (
    "id,text,label,score,next_label,next_score,error\n"
    "t.tsv:2,kurz,low,1.0,high,0.0,\n"
    't.tsv:3,"lang, genug",high,1.0,low,0.0,\n'
  )
  images = tmp_path / "p"
  images.mkdir()
  (images / "a.png").write_bytes(b"damaged")
  predict_lib.predict(exports["image"], str(images), str(output), batch_size=1)
  header, row = output.read_text().splitlines()
  assert header == "id,label,score,next_label,next_score,error" and row.startswith("a.png,,,,,")
  (images / "b.png").write_bytes(_png(255))
  predict_lib.predict(exports["image"], str(images), str(output), batch_size=1)
  header, first, second = output.read_text().splitlines()
  assert header == "id,label,score,next_label,next_score,error" and first.startswith("a.png,,,,,")
  assert second == "b.png,high,1.0,low,0.0,"
  with pytest.raises(UserError, match="--top=2 does nothing for --output="):
    predict_lib.predict(exports["text"], str(table), str(output), top=2)


def test_a_text_is_answered_by_a_run_which_remembers_its_columns(exports, tmp_path, capsys, monkeypatch):
  run = tmp_path / "run"
  shutil.copytree(exports["text"], run / "export")
  write(run / "config.json", "{}")
  facts = files.read_json(run / "export" / workdir.EXPORT_FACTS) | {"columns": {"text_column": "body"}}
  files.write_json(run / "export" / workdir.EXPORT_FACTS, facts)
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
  predict_lib.predict(run, ["a long text"])
  sys.stdout.seek(0)
  assert json.loads(sys.stdout.read())["label"] == "high"
  table, output = write(tmp_path / "t.csv", "text,body\nlong enough,no\n"), tmp_path / "out.jsonl"
  predict_lib.predict(run, str(table), str(output))
  predict_lib.predict(run, str(table), str(tmp_path / "other.jsonl"), text_column="text")
  labels = [json.loads(path.read_text())["label"] for path in (output, tmp_path / "other.jsonl")]
  assert labels == ["low", "high"]
  shutil.rmtree(run / "export")
  with pytest.raises(UserError, match="is a run without an export: python -m tl_app.export --workdir="):
    predict_lib.predict(run, ["a text"])
