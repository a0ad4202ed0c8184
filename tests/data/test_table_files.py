"""Which files of a directory `table:` reads, and what it tells of the others."""

import pytest
from loading import load, refusal, write

CONTENT = "text,label\n{},a\n"


def tables(directory, *names):
  for name in names:
    write(directory / name, CONTENT.format(name))
  return directory


@pytest.mark.parametrize(
  ("names", "splits"),
  [
    (("training.csv", "testing.csv"), {"training.csv": "train", "testing.csv": "test"}),
    (("training.csv", "test.csv"), {"training.csv": "train", "test.csv": "test"}),
    (("movie_train.csv", "movie_eval.csv"), {"movie_train.csv": "train", "movie_eval.csv": "validation"}),
    (("trainset.csv", "valset.csv"), {"trainset.csv": "train", "valset.csv": "validation"}),
    (
      ("a-train-00000-of-00002.csv", "a-train-00001-of-00002.csv", "a-test.csv"),
      {"a-train-00000-of-00002.csv": "train", "a-train-00001-of-00002.csv": "train", "a-test.csv": "test"},
    ),
  ],
)
def test_names_with_the_word_of_a_split(tmp_path, names, splits):
  examples = load(f"table:{tables(tmp_path, *names)}")
  assert dict(zip((id.split(":")[0] for id in examples.ids), examples.splits)) == splits
  assert "read as splits: " in examples.notes[0]


def test_shards_with_a_hash(tmp_path):
  tables(tmp_path, "train-00000-of-00001-12de94e121bdbead.csv", "test-00000-of-00001-hash.csv")
  assert sorted(load(f"table:{tmp_path}").splits) == ["test", "train"]


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (("train.conllu",), "it holds train.conllu: save it as .conll"),
    (("data/0.zip",), "it holds 0.zip: unpack it"),
    (("0000.csv", "0001.csv"), "parts of one table by a glob, 'table:{}/*.csv'"),
  ],
)
def test_a_directory_without_splits_tells_what_to_do(tmp_path, names, message):
  assert message.replace("{}", str(tmp_path)) in refusal(f"table:{tables(tmp_path, *names)}")


def test_folders_of_tables(tmp_path):
  tables(tmp_path / "a", "train/0000.csv", "train/0001.csv", "test/0000.csv")
  examples = load(f"table:{tmp_path / 'a'}")
  assert list(zip(examples.ids, examples.splits)) == [
    ("test/0000.csv:2", "test"),
    ("train/0000.csv:2", "train"),
    ("train/0001.csv:2", "train"),
  ]
  tables(tmp_path / "b" / "data", "train.csv", "test.csv")
  assert sorted(load(f"table:{tmp_path / 'b'}").splits) == ["test", "train"]
  tables(tmp_path / "c" / "default", "train/0000.csv", "test/0000.csv")
  assert sorted(load(f"table:{tmp_path / 'c'}").splits) == ["test", "train"]


@pytest.mark.parametrize(
  ("names", "advice"),
  [
    (("train.csv", "train_2.csv", "test.csv"), "--dataset='table:{}/train*.csv' --test_dataset=table:{}/test.csv"),
    (("train.csv", "train (1).csv"), "--dataset='table:{}/train*.csv'"),
    (
      ("train.csv", "validation_matched.csv", "validation_mismatched.csv", "test_matched.csv"),
      "--dataset=table:{}/train.csv --validation_dataset=table:{}/validation_matched.csv "
      "--test_dataset=table:{}/test_matched.csv",
    ),
    (("train.csv", "holdout.csv"), "--dataset=table:{}/train.csv --test_dataset=table:{}/holdout.csv"),
    (("train.csv", "dev.txt"), "dev.txt would not be read, but has the name of a split: name the columns"),
    (("train.csv", "test.zip"), "test.zip would not be read, but has the name of a split: unpack it"),
    (("train_data.csv", "train_labels.csv"), "--dataset='table:{}/train_*.csv'"),
    (("train_a.csv", "train_b.csv", "test.csv"), "--dataset='table:{}/train_*.csv' --test_dataset=table:{}/test.csv"),
  ],
)
def test_a_table_named_like_a_split_is_not_passed_over(tmp_path, names, advice):
  message = refusal(f"table:{tables(tmp_path, *names)}")
  assert "would not be read" in message and advice.replace("{}", str(tmp_path)) in message


def test_what_is_passed_over_is_told(tmp_path):
  tables(tmp_path, "train.csv", "test.csv", "train_small.csv", "sample_submission.csv")
  for name in ("README.md", "LICENSE", "Thumbs.db", "notes.docx", "more.docx", "photo.jpg"):
    write(tmp_path / name, "x")
  notes = load(f"table:{tmp_path}").notes
  assert "not tables, which are ignored: 2 (.docx 2), e.g. more.docx" in notes[0]
  assert "other tables, which are ignored: 2 (.csv 2), e.g. sample_submission.csv" in notes[1]


def test_tables_in_folders_beside_the_tables_are_named(tmp_path):
  (tmp_path / "more").mkdir()
  tables(tmp_path, "train.csv", "test.csv", "more/train.csv")
  (note,) = load(f"table:{tmp_path}").notes
  assert note.endswith("tables in folders beside the tables, which are ignored: 1 (.csv 1), e.g. train.csv")
