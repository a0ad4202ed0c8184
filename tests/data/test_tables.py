"""`table:PATH`: csv, tsv, jsonl, Parquet, and what a bad one is told."""

import csv
import gzip
import json

from loading import load, refusal, write, write_images


def test_table_directory_gives_splits_and_ignores_other_files(tmp_path):
  for name in ("train.tsv", "dev.tsv", "test.tsv", "train_small.tsv"):
    write(tmp_path / name, f"text\tlabel\nin {name}\tyes\n")
  write(tmp_path / "README.txt", "about")
  examples = load(f"table:{tmp_path}")
  assert list(examples.ids) == ["train.tsv:2", "dev.tsv:2", "test.tsv:2"]
  assert list(examples.splits) == ["train", "validation", "test"]


def test_table_of_one_file_has_no_splits(tmp_path):
  file = write(tmp_path / "all.tsv", "text\tlabel\nx\ta\ny\tb\n")
  for name in (file, tmp_path):
    examples = load(f"table:{name}")
    assert list(examples.ids) == ["all.tsv:2", "all.tsv:3"]
    assert set(examples.splits) == {""}


def test_tsv_has_no_quoting_and_no_missing_value_words(tmp_path):
  file = write(tmp_path / "t.tsv", '\ufefftext\tlabel\r\n"NA, he said\tNone\r\n\r\nnull\t1\r\nNaN\t1.0\r\n')
  examples = load(f"table:{file}")
  assert list(examples.inputs.array()) == ['"NA, he said', "null", "NaN"]
  assert list(examples.labels) == ["None", "1", "1.0"]
  assert examples.ids[1] == "t.tsv:4"


def test_csv_has_quoting(tmp_path):
  long = "x" * 200_000
  with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("label", "text"), ("a", 'one, "two"\nthree'), ("NA", "null"), ("b", long)])
  examples = load(f"table:{tmp_path / 't.csv'}")
  assert list(examples.inputs.array()) == ['one, "two"\nthree', "null", long]
  assert list(examples.labels) == ["a", "NA", "b"]


def test_jsonl_and_parquet_keep_whole_labels_whole(tmp_path):
  import pandas as pd

  frame = pd.DataFrame({"text": ["NA", "ü", "z"], "label": [1, 0, 12]})
  frame.to_parquet(tmp_path / "t.parquet")
  frame.assign(label=frame.label.astype(float)).to_parquet(tmp_path / "f.parquet")
  write(tmp_path / "t.jsonl", "\n".join(json.dumps(row) for row in frame.to_dict("records")) + "\n\n")
  for name in ("t.parquet", "f.parquet", "t.jsonl"):
    examples = load(f"table:{tmp_path / name}")
    assert list(examples.inputs.array()) == ["NA", "ü", "z"]
    assert list(examples.labels) == ["1", "0", "12"]
  write(tmp_path / "b.jsonl", '{"text": "x", "label": true}\n{"label": false, "text": "y"}')
  assert list(load(f"table:{tmp_path / 'b.jsonl'}").labels) == ["true", "false"]


def test_table_bad_rows_stop_or_are_listed(tmp_path):
  file = write(tmp_path / "t.tsv", "text\tlabel\ngood\ta\n  \ta\nno label\t\nragged\ta\tb\nshort\nfine\tb\n")
  assert "t.tsv:3: the text is empty (4 of 6" in refusal(f"table:{file}")
  examples = load(f"table:{file}", on_bad_example="skip")
  assert list(examples.ids) == ["t.tsv:2", "t.tsv:7"]
  assert {bad["id"]: bad["reason"] for bad in examples.skipped} == {
    "t.tsv:3": "the text is empty",
    "t.tsv:4": "it has no label",
    "t.tsv:5": "line 5 has 3 fields, the header has 2",
    "t.tsv:6": "line 6 has 1 field, the header has 2",
  }


def test_jsonl_bad_lines(tmp_path):
  file = write(
    tmp_path / "t.jsonl", '{"text": "x", "label": "a"}\n{oops\n[1]\n{"text": ["y"], "label": "b"}\n{"text": "z"}\n'
  )
  examples = load(f"table:{file}", on_bad_example="skip")
  assert list(examples.ids) == ["t.jsonl:1"]
  reasons = " | ".join(bad["reason"] for bad in examples.skipped)
  assert "line 2 is not JSON" in reasons
  assert "line 3 is not a JSON object" in reasons
  assert "a cell holds a list" in reasons
  assert "it has no label" in reasons


def test_table_of_image_paths(tmp_path):
  write_images(tmp_path, "pictures/1.jpg", "pictures/2.jpg")
  file = write(tmp_path / "t.csv", "image,label\npictures/1.jpg,a\npictures/2.jpg,b\npictures/3.jpg,b\n")
  assert f"t.csv:4: {tmp_path}/pictures/3.jpg cannot be read: No such file" in refusal(f"table:{file}")
  examples = load(f"table:{file}", on_bad_example="skip")
  assert examples.modality == "image"
  assert examples.inputs.array()[1] == str(tmp_path / "pictures/2.jpg")
  assert list(examples.ids) == ["t.csv:2", "t.csv:3"]


def test_table_with_text_and_image_columns_wants_a_choice(tmp_path):
  write_images(tmp_path, "1.jpg", "2.jpg")
  file = write(tmp_path / "t.csv", "image,text,caption,label\n1.jpg,x,xx,a\n2.jpg,y,yy,b\n")
  message = refusal(f"table:{file}")
  assert "--image_column=" in message
  assert "--text_column=" in message
  assert load(f"table:{file}", image_column="").modality == "text"
  assert load(f"table:{file}", text_column="").modality == "image"
  assert list(load(f"table:{file}", text_column="caption").inputs.array()) == ["xx", "yy"]


def test_missing_column_names_those_there_are(tmp_path):
  file = write(tmp_path / "t.csv", "texts,class\nx,a\n")
  message = refusal(f"table:{file}")
  assert "'text' (--text_column)" in message
  assert "texts, class" in message
  assert "did you mean texts?" in message
  assert "'label' (--label_column)" in refusal(f"table:{file}", text_column="texts")
  assert len(load(f"table:{file}", text_column="texts", label_column="class")) == 1


def test_unreadable_tables(tmp_path):
  latin = write(tmp_path / "latin.tsv", "text\tlabel\nfine\ta\nüber\tb\n", encoding="latin-1")
  quote = write(tmp_path / "quote.csv", 'text,label\n"open,a\nx,b\n')
  twice = write(tmp_path / "twice.csv", "text,text,label\nx,y,a\n")
  fake = write(tmp_path / "fake.parquet", "text")
  assert "latin.tsv is not UTF-8: byte 18 on line 3" in refusal(f"table:{latin}")
  assert "quote.csv, line 3" in refusal(f"table:{quote}")
  assert "'text' twice" in refusal(f"table:{twice}")
  assert "fake.parquet is not a Parquet file" in refusal(f"table:{fake}")
  assert "is empty" in refusal(f"table:{write(tmp_path / 'none.csv', '')}")
  assert "no rows" in refusal(f"table:{write(tmp_path / 'header.csv', 'text,label')}")
  assert "known are .csv, .tsv, .jsonl, .ndjson, .parquet" in refusal(f"table:{write(tmp_path / 'sheet.xls', '')}")
  assert "there is no file" in refusal(f"table:{tmp_path / 'missing.csv'}")


def test_table_directories_that_cannot_be_told(tmp_path):
  for name in ("two/train.tsv", "two/train.csv", "odd/one.tsv", "odd/other.tsv"):
    write(tmp_path / name, "text\tlabel\nx\ta\n")
  (tmp_path / "bare").mkdir()
  assert "train.csv and train.tsv are both the train split" in refusal(f"table:{tmp_path / 'two'}")
  assert "none of them named train" in refusal(f"table:{tmp_path / 'odd'}")
  assert "has no table" in refusal(f"table:{tmp_path / 'bare'}")


def test_banking77(shared):
  examples = load(f"table:{shared('data/banking77')}")
  assert len(examples) == 13_083
  assert len(set(examples.labels)) == 77


def test_clinc150_leaves_other_tables_alone(shared):
  examples = load(f"table:{shared('data/clinc150')}")
  assert {id.split(":")[0] for id in examples.ids} == {"train.tsv", "dev.tsv", "test.tsv"}
  assert len(set(examples.labels)) == 151


def test_a_first_line_that_names_no_columns_is_told(tmp_path):
  commas = write(tmp_path / "commas.tsv", "text,label\nx,a\n")
  headless = write(tmp_path / "headless.csv", "a good film,positive\na bad film,negative\n")
  assert "its only column is 'text,label': separate the fields of a .csv by commas" in refusal(f"table:{commas}")
  assert "its first line names the columns: a good film, positive" in refusal(f"table:{headless}")


def test_a_glob_joins_parts_with_the_same_columns(tmp_path):
  write(tmp_path / "part-1.csv", "text,label\none,a\n")
  write(tmp_path / "part-2.csv", "label,text\nb,two\n")
  write(tmp_path / "more" / "part-1.csv", "text,label\nthree,a\n")
  examples = load(f"table:{tmp_path}/**/part-*.csv")
  assert list(examples.ids) == ["more/part-1.csv:2", "part-1.csv:2", "part-2.csv:2"]
  assert list(zip(examples.inputs.array(), examples.labels)) == [("three", "a"), ("one", "a"), ("two", "b")]
  assert set(examples.splits) == {""}
  write(tmp_path / "part-3.csv", "text,class\nthree,a\n")
  message = refusal(f"table:{tmp_path}/part-*.csv")
  assert "different columns: only part-1.csv has 'label' and only part-3.csv has 'class'" in message
  assert "nothing that it takes matches" in refusal(f"table:{tmp_path}/*.tsv")
  write(tmp_path / "notes.txt", "about")
  assert "matches no table" in refusal(f"table:{tmp_path}/*.txt")
  assert "not tables" in load(f"table:{tmp_path}/*[12s].*").notes[0]


def test_a_name_with_a_bracket_is_a_file_where_there_is_one(tmp_path):
  assert len(load(f"table:{write(tmp_path / 'mails[1].csv', 'text,label' + chr(10) + 'x,a')}")) == 1


def test_a_glob_of_tables_does_not_mix_splits(tmp_path):
  for name in ("train.csv", "test-00000-of-00001.csv"):
    write(tmp_path / name, "text,label\nx,a\n")
  message = refusal(f"table:{tmp_path}/*.csv")
  assert "test-00000-of-00001.csv and train.csv" in message
  assert "--test_dataset" in message


def test_shards_of_a_split_are_one(tmp_path):
  for number in range(2):
    write(tmp_path / f"train-0000{number}-of-00002.tsv", f"text\tlabel\nx{number}\ta\n")
  write(tmp_path / "test-00000-of-00001.tsv", "text\tlabel\ny\ta\n")
  examples = load(f"table:{tmp_path}")
  assert list(examples.inputs.array()) == ["x0", "x1", "y"]
  assert list(examples.splits) == ["train", "train", "test"]
  (tmp_path / "train-00000-of-00002.tsv").unlink()
  assert "missing shards of train.tsv: 1 of 2, e.g. number 0" in refusal(f"table:{tmp_path}")


def test_compressed_tables(tmp_path):
  for name, content in {"t.csv.gz": 'text,label\n"a, b",x\n', "t.jsonl.gz": '{"text": "a, b", "label": "x"}\n'}.items():
    (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    assert list(load(f"table:{tmp_path / name}").inputs.array()) == ["a, b"]
  (tmp_path / "torn.tsv.gz").write_bytes(gzip.compress(b"text\tlabel\nx\ta\n")[:-9])
  assert "torn.tsv.gz is damaged, or not compressed by gzip" in refusal(f"table:{tmp_path / 'torn.tsv.gz'}")
  assert "not compressed by gzip" in refusal(f"table:{write(tmp_path / 'plain.csv.gz', 'text,label')}")


def test_image_paths_may_be_absolute_or_from_home_but_no_address(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(write_images(tmp_path / "home", "1.jpg")))
  other = write_images(tmp_path / "elsewhere", "2.jpg") / "2.jpg"
  file = write(tmp_path / "d" / "t.csv", f"image,label\n~/1.jpg,a\n{other},b\nhttps://host/3.jpg,b\n")
  assert "t.csv:4: https://host/3.jpg is an address: download the images" in refusal(f"table:{file}")
  assert list(load(f"table:{file}", on_bad_example="skip").inputs.array()) == [
    str(tmp_path / "home" / "1.jpg"),
    str(other),
  ]


def test_columns_of_slices_are_kept_beside_the_inputs(tmp_path):
  rows = [{"text": "one", "label": "a", "sex": "f", "age": 31}, {"text": "two", "label": "b", "sex": None, "age": 4.5}]
  file = write(tmp_path / "all.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  examples = load(f"table:{file}", slice_columns="sex, age")
  assert {name: list(cells) for name, cells in examples.metadata.items()} == {"sex": ["f", ""], "age": ["31", "4.5"]}
  assert list(examples.inputs.columns) == ["text"]
  assert list(examples.take([1]).metadata["age"]) == ["4.5"]
  extra = write(tmp_path / "test.csv", "text,label,sex,age\nthree,a,m,7\n")
  joined = load(f"table:{file}", slice_columns="sex", test_dataset=f"table:{extra}")
  assert list(joined.metadata["sex"]) == ["f", "", "m"]
  missing = refusal(f"table:{file}", slice_columns="sexe")
  assert "has no column 'sexe' (--slice_columns); its columns are: text" in missing
  assert "needs data with columns" in refusal(f"images:{tmp_path}", slice_columns="sex")


def test_a_column_is_named_once(tmp_path):
  file = write(tmp_path / "t.csv", "text,label,other\na b,x,1\nc d,y,0\n")
  cases = {
    "--text_column and --label_column name 'label'": {"text_column": "label"},
    "--text_column and --text_pair_column name 'text'": {"text_pair_column": "text"},
    "--label_columns names 'other' twice": {"label_columns": "other,other"},
  }
  for message, flags in cases.items():
    assert f"{message}: name a column once" in refusal(f"table:{file}", **flags)


def test_classes_without_a_usable_example_are_those_of_single_labels(tmp_path):
  for bad, told in (("c", ["classes without a usable example: 1, e.g. 'c'"]), ('["a", "b"]', [])):
    labels = ("a", "b", "a") if told else ('["a"]', '["b"]', '["a"]')
    rows = [{"text": f"t {n}", "label": label} for n, label in enumerate(labels)] + [{"text": "", "label": bad}]
    file = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert load(f"table:{file}", on_bad_example="skip").notes == told


def test_several_files_by_commas_or_braces_are_told_to_be_a_glob(tmp_path):
  for name in ("a.csv", "b.csv"):
    write(tmp_path / name, "text,label\na b,x\n")
  for several in ("a.csv,{0}/b.csv", "a.csv {0}/b.csv", "{{a,b}}.csv"):
    assert refusal(f"table:{tmp_path}/{several.format(tmp_path)}").endswith("named by a glob, 'DIR/*.csv'")


def test_a_column_of_splits_that_is_not_read_is_told(tmp_path):
  for name, told in (("Split", True), ("size", False)):
    file = write(tmp_path / "t.csv", f"text,label,{name}\na b,x,train\nc d,y,Test\n")
    notes = load(f"table:{file}").notes
    assert any("the column 'Split' is not read, although it holds test and train" in note for note in notes) == told
  file = write(tmp_path / "t.csv", "text,label,split\na b,x,left\nc d,y,right\n")
  assert load(f"table:{file}").notes == []


def test_numbers_of_32_bits_are_written_as_they_were_meant(tmp_path):
  import numpy as np
  import pandas as pd

  labels = np.array([0.1, 0.5, np.nan], np.float32)
  pd.DataFrame({"text": ["a", "b", "c"], "label": labels}).to_parquet(tmp_path / "t.parquet")
  assert list(load(f"table:{tmp_path / 't.parquet'}", on_bad_example="skip").labels) == ["0.1", "0.5"]
