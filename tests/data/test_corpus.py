"""Unlabelled data: `texts:`, images without class folders, and data sets whose labels are not read."""

import csv
import gzip
import json

import numpy as np
import pytest
import tiny_data

from tl_app.assets import Assets
from tl_app.checking import summary
from tl_app.commands import check
from tl_app.config import Config
from tl_app.data.corpus import corpus as corpora
from tl_app.data.corpus import order, text_store
from tl_app.errors import UserError


@pytest.fixture
def load(tmp_path):
  """Returns a function, flags -> `Corpus`."""

  def load_corpus(**flags):
    directory = tmp_path / f"store_{len(list(tmp_path.iterdir()))}"
    directory.mkdir()
    return corpora.load(
      Config(cache_dir=str(tmp_path / "cache"), **flags), Assets(str(tmp_path / "cache"), True), directory
    )

  return load_corpus


def everything(rows):
  return sorted(text.decode() for text in rows.read(np.arange(len(rows))))


def write_lines(path, n=200):
  path.write_text("".join(f"text number {i}\n\n" for i in range(n)), encoding="utf-8")
  return [f"text number {i}" for i in range(n)]


def test_lines_files_objects_and_gz_are_texts(load, tmp_path):
  texts = write_lines(tmp_path / "a.txt")
  found = load(dataset=f"texts:{tmp_path}/a.txt")
  assert found.facts["examples"] == 200 and len(found.held_out) > 0
  assert sorted(everything(found.train) + everything(found.held_out)) == sorted(texts)
  folder = tmp_path / "mails"
  (folder / "1999").mkdir(parents=True)
  for i in range(30):
    (folder / "1999" / f"{i}.txt").write_text(f"mail {i}\nwith two lines\n")
  with gzip.open(folder / "more.jsonl.gz", "wt") as file:
    file.write("".join(json.dumps({"body": f"object {i}", "n": i}) + "\n" for i in range(30)))
  found = load(dataset=f"texts:{folder}", text_column="body")
  assert found.facts["examples"] == 60 and "mail 3\nwith two lines" in everything(found.train) + everything(
    found.held_out
  )
  assert load(dataset=f"texts:{folder}", text_column="body", text_unit="line").facts["examples"] == 90


def test_equal_texts_count_once_and_the_content_draws_the_held_out_part(load, tmp_path):
  texts = write_lines(tmp_path / "a.txt")
  (tmp_path / "b.txt").write_text("\n".join([*texts, *texts, "one more"]))
  first, second = (load(dataset=f"texts:{tmp_path}/{name}.txt") for name in "ab")
  assert second.facts["duplicates"] == 200 and len(second.train) + len(second.held_out) == 201
  assert set(everything(first.held_out)) == set(everything(second.held_out)) - {"one more"}
  assert 5 <= len(first.held_out) <= 40
  assert everything(load(dataset=f"texts:{tmp_path}/a.txt", split_seed=1).held_out) != everything(first.held_out)
  few = load(dataset=f"texts:{tmp_path}/a.txt", max_examples=10)
  assert len(few.train) == 10 and set(everything(few.train)) <= set(everything(first.train))


def test_long_texts_are_read_in_pieces_that_stay_together(load, tmp_path):
  text = "word " * 1000
  assert "".join(text_store.passages(text)).split() == text.split()
  assert max(map(len, text_store.passages(text))) <= text_store.PASSAGE
  (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"{i} {text}"}) + "\n" for i in range(40)))
  found = load(dataset=f"texts:{tmp_path}/a.jsonl")
  assert found.facts["examples"] == 40 and len(found.held_out) % 3 == 0 and len(found.train) > 100


def test_labels_are_not_read(load, tmp_path):
  path = tmp_path / "a.csv"
  with open(path, "w", newline="") as file:
    csv.writer(file).writerows([("text", "n"), *((f"text {i}", i) for i in range(100))])
  assert load(dataset=f"table:{path}").facts["examples"] == 100
  tiny_data.colours(tmp_path / "squares", per_class=12)
  (tmp_path / "squares" / "blue" / "copy.png").write_bytes((tmp_path / "squares" / "blue" / "000.png").read_bytes())
  found = load(dataset=f"images:{tmp_path}/squares")
  assert found.modality == "image" and found.facts == found.facts | {"examples": 37, "duplicates": 1}
  assert found.train.read(np.array([0]))[0][1:4] == b"PNG" and len(found.held_out) > 0


def test_faults_are_one_line(load, tmp_path):
  def refused(message, name="a.txt", **flags):
    with pytest.raises(UserError, match=message):
      load(dataset=f"texts:{tmp_path}/{name}", **flags)

  refused("there is no file or directory", name="none")
  (tmp_path / "a.txt").write_text("\n \n")
  refused("holds no text")
  (tmp_path / "a.txt").write_bytes(b"\x7fELF\0\0\0")
  refused("a.txt is a binary file")
  (tmp_path / "a.txt").write_bytes("good\n".encode("utf-16"))
  refused("a.txt is UTF-16, not UTF-8: save it as UTF-8")
  (tmp_path / "a.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
  refused("a.txt is a pointer of Git LFS")
  (tmp_path / "a.csv").write_text("text,label\nx,a\n")
  for name in ("a.csv", "*.csv"):
    refused("a.csv is a table, whose lines are no texts: pass table:.*a.csv and --text_column", name=name)
  (tmp_path / "a.txt").write_bytes(b"good\n" * 3 + b"caf\xe9\n")
  refused("a.txt:4: the text is not UTF-8")
  (tmp_path / "a.txt").write_bytes(b"x" * 10_000_000 + b"\ngood\n")
  refused("a.txt:1: the line is longer than 1 MB")
  (tmp_path / "a.txt").write_text("one\n")
  refused("1 different example and none of them to hold out")
  (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
  refused("a.jsonl:1: it has no key 'text'", name="a.jsonl")


def test_check_reads_texts(tmp_path):
  texts = write_lines(tmp_path / "a.txt")
  (tmp_path / "a.txt").write_bytes("\n".join([*texts, texts[0], "<br>html", "..."]).encode() + b"\n\xff\n")
  result, found = check.check(Config(dataset=f"texts:{tmp_path}/a.txt"))
  counts = {finding.kind: finding.count for finding in found}
  assert counts == {"unreadable": 1, "html": 1, "no_words": 1, "duplicates": 1}
  assert "without labels" in next(summary.lines(result, found)) and json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1000])
def test_permuted_is_a_permutation(n):
  places = np.arange(n)
  found = order.permuted(places, n, 3)
  assert sorted(found) == list(places)
  assert n < 5 or (list(found) != list(places) and list(found) != list(order.permuted(places, n, 4)))


def test_every_example_comes_once_in_a_pass():
  sizes = np.random.default_rng(0).integers(1, 100, 640)
  batches = order.Batches(640, 32, seed=1, sizes=lambda rows: sizes[rows])
  rows = np.stack([batches(number) for number in range(20)])
  assert sorted(rows.ravel()) == list(range(640))
  assert np.ptp(sizes[rows], axis=1).mean() < 10
  assert not np.array_equal(rows, np.stack([batches(number) for number in range(20, 40)]))
