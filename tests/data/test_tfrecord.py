"""`tfrecord:PATH`: files, shards and directories of tf.train.Example, and what a bad one is told."""

import gzip
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from loading import LocalAssets, load, refusal, write

from tl_app.data import examples, modalities, pipeline


def feature(value):
  values = value if isinstance(value, list) else [value]
  if isinstance(values[0], int):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
  if isinstance(values[0], float):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
  values = [value.encode() if isinstance(value, str) else value for value in values]
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def serialize(**named):
  features = {name.replace("__", "/"): feature(value) for name, value in named.items()}
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path, rows):
  """Writes serialized examples, or those of dicts, and returns the path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  options = tf.io.TFRecordOptions(compression_type="GZIP" if path.suffix == ".gz" else "")
  with tf.io.TFRecordWriter(str(path), options) as writer:
    for row in rows:
      writer.write(row if isinstance(row, bytes) else serialize(**row))
  return path


def texts(*names):
  return [{"text": name, "label": "a" if number % 2 else "b"} for number, name in enumerate(names)]


def images(count, start=0):
  return [{"image__encoded": b"good %d" % (start + i), "image__class__label": i % 2} for i in range(count)]


def test_images_stay_in_their_file(tmp_path):
  file = write_records(tmp_path / "all.tfrecord", images(5))
  found = load(f"tfrecord:{file}")
  assert found.modality == "image"
  assert list(found.ids) == [f"all.tfrecord:{number}" for number in range(1, 6)]
  assert list(found.labels) == ["0", "1", "0", "1", "0"]
  assert {type(value) for value in found.inputs.array()} == {examples.Record}
  assert [examples.encoded(value) for value in found.inputs.array()] == [b"good %d" % i for i in range(5)]
  assert [modalities.of("image").encode(found.inputs.array()[i])[0] for i in (3, 0)] == [b"good 3", b"good 0"]


def test_texts(tmp_path):
  file = write_records(tmp_path / "t.tfrecord", texts("größe", "two"))
  found = load(f"tfrecord:{file}")
  assert (list(found.inputs.array()), list(found.labels), found.modality) == (["größe", "two"], ["b", "a"], "text")


@pytest.mark.parametrize(
  "names",
  [
    ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord", "test-00000-of-00001.tfrecord"],
    ["set-train.tfrecord-00000-of-00002", "set-train.tfrecord-00001-of-00002", "set-test.tfrecord-00000-of-00001"],
    ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"],
    ["train00-3.tfrec", "train01-1.tfrec", "test00-2.tfrec"],
    ["train-00000-of-00002.tfrecord.gz", "train-00001-of-00002.tfrecord.gz", "test.tfrecord.gz"],
  ],
)
def test_directory_gives_splits(tmp_path, names):
  for number, name in enumerate(names):
    write_records(tmp_path / name, texts(f"{number} x", f"{number} y"))
  write(tmp_path / "features.json", "{}")
  found = load(f"tfrecord:{tmp_path}")
  assert list(found.splits) == ["train"] * 4 + ["test"] * 2
  assert [text[0] for text in found.inputs.array()] == ["0", "0", "1", "1", "2", "2"]
  assert len(set(found.ids)) == 6


def test_directories_that_cannot_be_told(tmp_path):
  for name in ("two/train.tfrecord", "two/small_train.tfrecord", "torn/train-00001-of-00003.tfrecord"):
    write_records(tmp_path / name, texts("x", "y"))
  write(tmp_path / "none" / "t.csv", "text,label\nx,y\n")
  assert "both the train split" in refusal(f"tfrecord:{tmp_path / 'two'}")
  assert "missing shards of train: 2 of 3, e.g. number 0" in refusal(f"tfrecord:{tmp_path / 'torn'}")
  assert "has no TFRecord files" in refusal(f"tfrecord:{tmp_path / 'none'}")
  assert "there is no file" in refusal(f"tfrecord:{tmp_path / 'missing'}")


def test_a_glob_joins_files_of_one_split(tmp_path):
  for name in ("a/part-1.tfrecord", "b/part-1.tfrecord", "c/train.tfrecord", "c/test.tfrecord"):
    write_records(tmp_path / name, texts(f"{name} x", f"{name} y"))
  found = load(f"tfrecord:{tmp_path}/*/part-*.tfrecord")
  assert list(found.ids) == [f"{folder}/part-1.tfrecord:{number}" for folder in "ab" for number in (1, 2)]
  assert "would mix them" in refusal(f"tfrecord:{tmp_path}/c/*.tfrecord")
  assert "nothing that it takes matches" in refusal(f"tfrecord:{tmp_path}/*.tfrecord")


@pytest.mark.parametrize("name, lines", [("labels.txt", "0:ant\n1:bee\n"), ("class.labels.txt", "ant\nbee\n")])
def test_numbers_become_the_names_beside_the_file(tmp_path, name, lines):
  rows = [{"image_raw": b"good %d" % number, "class": number} for number in (1, 0, -1, 2)]
  file = write_records(tmp_path / "x.tfrecords", rows)
  write(tmp_path / name, lines)
  found = load(f"tfrecord:{file}", on_bad_example="skip")
  assert list(found.labels) == ["bee", "ant"]
  assert [bad["reason"] for bad in found.skipped] == [
    "it has no label",
    "the label 2 is not among the 2 in labels.txt",
  ]


def test_an_empty_line_among_the_names_does_not_move_them(tmp_path):
  file = write_records(tmp_path / "x.tfrecords", images(4))
  write(tmp_path / "labels.txt", "ant\n\nbee\n")
  assert "labels.txt, line 2 is empty: the lines name the labels 0, 1, .. in order" in refusal(f"tfrecord:{file}")
  write(tmp_path / "labels.txt", "ant\nbee\n\n")
  assert set(load(f"tfrecord:{file}").labels) == {"ant", "bee"}


def test_compressed_images_are_kept_as_files(tmp_path):
  file = write_records(tmp_path / "i.tfrecord.gz", images(2))
  found = load(f"tfrecord:{file}", assets=LocalAssets(tmp_path / "cache"))
  assert [pathlib.Path(path).read_bytes() for path in found.inputs.array()] == [b"good 0", b"good 1"]
  shutil.move(file, tmp_path / "i.tfrecord")
  assert "it is compressed, name it .gz" in refusal(f"tfrecord:{tmp_path / 'i.tfrecord'}")


def test_missing_features_list_those_there_are(tmp_path):
  file = write_records(tmp_path / "x.tfrecord", [{"pixels": b"good", "kind": "a"}] * 2)
  message = refusal(f"tfrecord:{file}")
  assert "neither a feature 'image' (--image_column) nor 'text' (--text_column); its features are: kind," in message
  assert "no feature 'label' (--label_column)" in refusal(f"tfrecord:{file}", image_column="pixels")
  assert "did you mean kind?" in refusal(f"tfrecord:{file}", image_column="pixels", label_column="kin")
  assert load(f"tfrecord:{file}", image_column="pixels", label_column="kind").modality == "image"
  assert load(f"tfrecord:{file}", text_column="pixels", label_column="kind").modality == "text"
  both = write_records(tmp_path / "both.tfrecord", [{"image": b"good", "text": "t", "label": "a"}])
  assert "--image_column= (empty)" in refusal(f"tfrecord:{both}")
  assert load(f"tfrecord:{both}", text_column="").modality == "image"


def test_records_of_another_kind_are_told(tmp_path):
  rows = [*texts("x", "y"), {"text": [1, 2], "label": "a"}, {"label": "a"}, {"text": "z", "label": ["a", "b"]}, b"\xff"]
  file = write_records(tmp_path / "t.tfrecord", rows)
  assert "t.tfrecord:3: the feature 'text' holds 2 values (int64_list), expected one text (4 of 6" in refusal(
    f"tfrecord:{file}"
  )
  assert [bad["reason"] for bad in load(f"tfrecord:{file}", on_bad_example="skip").skipped][1:] == [
    "it has no feature 'text'",
    "the feature 'label' holds 2 values: one label is needed",
    "the record is not a tf.train.Example with features",
  ]


def test_a_damaged_record_is_one_bad_example(tmp_path):
  file = write_records(tmp_path / "t.tfrecord", texts("first", "second", "third", "fourth"))
  data = bytearray(file.read_bytes())
  data[data.index(b"second")] ^= 1
  file.write_bytes(data)
  assert "t.tfrecord:2: the record is damaged or truncated (1 of 4" in refusal(f"tfrecord:{file}")
  found = load(f"tfrecord:{file}", on_bad_example="skip")
  assert list(found.inputs.array()) == ["first", "third", "fourth"]
  assert list(found.ids)[1:] == ["t.tfrecord:3", "t.tfrecord:4"]


@pytest.mark.parametrize("missing", [1, 20, 45, 60])
def test_a_truncated_file_keeps_what_is_whole(tmp_path, missing):
  file = write_records(tmp_path / "t.tfrecord", texts("first", "second", "third"))
  file.write_bytes(file.read_bytes()[:-missing])
  found = load(f"tfrecord:{file}", on_bad_example="skip")
  assert list(found.inputs.array()) == (["first", "second"] if missing < 60 else ["first"])
  assert "truncated; what follows it cannot be found" in found.skipped[0]["reason"]


def test_a_truncated_gzip_is_told(tmp_path):
  whole = write_records(tmp_path / "whole", texts(*map(str, np.random.default_rng(0).random(3000)))).read_bytes()
  (tmp_path / "t.tfrecord.gz").write_bytes(gzip.compress(whole)[:-4000])
  found = load(f"tfrecord:{tmp_path / 't.tfrecord.gz'}", on_bad_example="skip")
  assert len(found) > 100
  assert "truncated" in found.skipped[0]["reason"]


def test_what_is_no_tfrecord_is_told(tmp_path):
  for content, words in (("", "has no records"), ("text,label\nx,a\n", "is not a TFRecord file"), ("x", "is not a")):
    file = write(tmp_path / "t.tfrecord", content)
    assert words in refusal(f"tfrecord:{file}")


def test_a_file_that_changed_is_not_read_as_before(tmp_path):
  file = write_records(tmp_path / "t.tfrecord", images(3))
  found = load(f"tfrecord:{file}")
  file.write_bytes(file.read_bytes()[:70])
  with pytest.raises(ValueError, match="has changed"):
    examples.encoded(found.inputs.array()[2])


def _png(shade):
  return tf.io.encode_png(np.full([4, 4, 3], shade, np.uint8)).numpy()


class Shade(tf.Module):
  """Stands for an image preprocessing: the first value of the first pixel."""

  def decode(self, encoded):
    return tf.io.decode_png(encoded)

  def resize(self, image):
    return tf.cast(image[0, 0, 0], tf.int32)

  def one(self, encoded):
    return self.resize(self.decode(encoded))


def test_pipeline_reads_paths_records_and_bytes_together(tmp_path):
  rows = [{"image": _png(10 + i), "label": 0} for i in range(4)]
  one = load(f"tfrecord:{write_records(tmp_path / 'a.tfrecord', rows)}", verify=None)
  rows = [{"image_raw": _png(20 + i), "label": 0} for i in range(4)]
  other = load(f"tfrecord:{write_records(tmp_path / 'b.tfrecord', rows)}", verify=None)
  (tmp_path / "c.png").write_bytes(_png(30))
  values = [*one.inputs.array(), _png(40), *other.inputs.array(), str(tmp_path / "c.png")]
  inputs = examples.Inputs.of("image", [values[i] for i in (9, 0, 5, 4, 3, 6, 1)])
  shades = [30, 10, 20, 40, 13, 21, 11]
  dataset, positions = pipeline.for_inference(inputs, Shade(), 4)
  assert pipeline.restore(np.concatenate(list(dataset)), positions).tolist() == shades
  targets = np.array(shades, np.int32)
  steps = pipeline.training_steps(inputs, targets, Shade(), pipeline.index_batches(7, 7, 0))
  for read, wanted in pipeline.whole(steps).take(3):
    assert read.numpy().tolist() == wanted.numpy().tolist()
    assert sorted(wanted.numpy()) == sorted(shades)


def test_records_feed_several_devices(tmp_path):
  rows = [{"image": _png(i), "label": 0} for i in range(8)]
  inputs = load(f"tfrecord:{write_records(tmp_path / 'a.tfrecord', rows)}", verify=None).inputs
  strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  dataset, _ = pipeline.for_inference(inputs, Shade(), 4)
  batches = [strategy.experimental_local_results(batch) for batch in strategy.experimental_distribute_dataset(dataset)]
  assert [part.numpy().tolist() for parts in batches for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_features_of_slices_are_kept_beside_the_inputs(tmp_path):
  rows = [{"text": "one", "label": "a", "site": "x"}, {"text": "two", "label": "b"}]
  file = write_records(tmp_path / "all.tfrecord", rows)
  assert list(load(f"tfrecord:{file}", slice_columns="site").metadata["site"]) == ["x", ""]
  assert "has no feature 'sites' (--slice_columns)" in refusal(f"tfrecord:{file}", slice_columns="sites")
