"""Label cells that are structured, or that would be read as something else than what they are."""

import json

import pytest

from tl_app import data, tasks
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.tasks import cells, label_names

SETS = [["pay"], ["pay", "post"], ["tech"], [], ["post", "tech"], ["pay", "post", "tech"]]
NAMES = ("pay", "post", "tech")
VECTORS = [[int(name in names) for name in NAMES] for names in SETS]


def choose(tmp_path, labels, texts=None, suffix=".csv", **flags):
  """Returns (task fitted on all labels, its `Examples`) of a table with these label cells."""
  texts = texts or [f"a text about number {i}" for i in range(len(labels))]
  return choose_rows(tmp_path, [{"text": t, "label": label} for t, label in zip(texts, labels)], suffix, **flags)


def choose_rows(tmp_path, rows, suffix=".csv", **flags):
  path = tmp_path / f"data{suffix}"
  if suffix == ".jsonl":
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  else:
    quoted = [['"' + str(cell).replace('"', '""') + '"' for cell in row.values()] for row in rows]
    path.write_text("\n".join(",".join(row) for row in [list(rows[0]), *quoted]) + "\n")
  config = Config(dataset=f"table:{path}", **flags)
  examples = data.load(config, Assets(offline=True))
  task, _ = tasks.choose(config, examples)
  return task.fit(examples.labels), examples


def numpy_text(values):
  return "[" + " ".join(map(repr, values)) + "]"


@pytest.mark.parametrize(
  ("cell", "members"),
  [
    ('["pay", "post"]', ["pay", "post"]),
    ("['pay', 'post']", ["pay", "post"]),
    ("['pay' 'post']", ["pay", "post"]),
    ("['pay'\n 'post']", ["pay", "post"]),
    ("[\"it's\", 'b']", ["it's", "b"]),
    ("array(['pay', 'post'], dtype=object)", ["pay", "post"]),
    ("np.array(['pay'])", ["pay"]),
    ("Index(['pay', 'post'], dtype='object')", ["pay", "post"]),
    ("{'pay', 'post'}", ["pay", "post"]),
    ("('pay',)", ["pay"]),
    ("frozenset({'pay'})", ["pay"]),
    ("set()", []),
    ("array([], dtype=object)", []),
    ("[]", []),
    ("[np.str_('pay'), np.int64(3)]", ["pay", "3"]),
    ("[0. 1. 1.]", ["0", "1", "1"]),
    ("[0 1\n 1]", ["0", "1", "1"]),
    ("[True, False]", ["true", "false"]),
    ("[b'pay', b'post']", ["pay", "post"]),
    ("tensor([1, 0], device='cuda:0')", ["1", "0"]),
    ("tf.Tensor([1 0], shape=(2,), dtype=int32)", ["1", "0"]),
    *((text, None) for text in ("pay", "(late)", "(1)", "('a')", "[urgent]", "[pay, post]", "{'a': 1}", "[0 ... 1]")),
    *((text, None) for text in ("[1] see note", "'a', 'b'", "['a'b]", "[", "")),
  ],
)
def test_lists_are_read_as_json_python_and_numpy_write_them(cell, members):
  assert cells.listed(cell) == members


@pytest.mark.parametrize("write", [json.dumps, str, numpy_text, lambda names: f"array({names}, dtype=object)"])
def test_lists_of_names_are_the_same_classes_however_they_are_written(tmp_path, write):
  task, examples = choose(tmp_path, list(map(write, SETS)))
  assert (task.name, task.names) == ("multi_label", NAMES)
  assert task.codec.targets(examples.labels).astype(int).tolist() == VECTORS


@pytest.mark.parametrize(
  "write",
  [
    json.dumps,
    numpy_text,
    lambda bits: numpy_text([float(bit) for bit in bits]),
    lambda bits: str([bool(bit) for bit in bits]),
    lambda bits: " ".join(map(str, bits)),
    lambda bits: ",".join(map(str, bits)),
  ],
)
def test_vectors_of_0_and_1_have_a_class_for_each_place(tmp_path, write):
  task, examples = choose(tmp_path, list(map(write, VECTORS)), label_names="pay,post,tech")
  assert (task.name, task.names) == ("multi_label", NAMES)
  assert task.codec.targets(examples.labels).astype(int).tolist() == VECTORS
  task, examples = choose(tmp_path, list(map(write, VECTORS)))
  assert task.names == ("class_0", "class_1", "class_2") and "--label_names" in examples.notes[-1]


def test_vectors_in_json_are_those_in_text(tmp_path):
  assert choose(tmp_path, VECTORS, suffix=".jsonl")[0].names == ("class_0", "class_1", "class_2")


def test_vectors_with_exactly_one_1_are_one_class_each(tmp_path):
  one_hot = [[0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
  task, examples = choose(tmp_path, one_hot, label_names="pay,post,tech")
  assert (task.name, task.names, list(examples.labels)) == (
    "single_label",
    ("pay", "tech"),
    ["tech", "pay", "pay", "tech"],
  )
  assert "places that are 1 in no label, and no classes: 1 of 3, e.g. that of post" in examples.notes[-1]
  assert choose(tmp_path, one_hot, task="multi_label")[0].name == "multi_label"


def test_numbers_get_the_names_that_are_given(tmp_path):
  task, _ = choose(tmp_path, ["0", "1", "1.0", "2"], label_names="pay, post, tech")
  assert (task.name, task.names) == ("single_label", NAMES)
  task, examples = choose(tmp_path, [[0], [0, 2], [], [1, 2]], suffix=".jsonl", label_names="pay,post,tech")
  assert task.names == NAMES and examples.labels[1] == '["pay", "tech"]'
  assert choose(tmp_path, [[0], [0, 2], [], [1, 2]], suffix=".jsonl")[0].names == ("0", "1", "2")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_numbers_of_tags_ask_for_names_and_take_them(tmp_path, suffix):
  rows = [
    {"tokens": ["a", "New York", "b"], "tags": [0, 1, 0]},
    {"tokens": ["Bonn", "am", "Rhein"], "tags": [1, 2, 2]},
    {"tokens": ["b"], "tags": [0]},
  ]
  flags = {"text_column": "tokens", "label_column": "tags"}
  if suffix == ".jsonl":
    with pytest.raises(UserError, match="lists of numbers, one for each word, e.g. .*--label_names=O,B-PER,I-PER"):
      choose_rows(tmp_path, rows[1:], suffix, **flags)
  task, examples = choose_rows(tmp_path, rows, suffix, **flags, label_names="O,B-LOC,I-LOC")
  assert (task.name, task.names) == ("token_classification", ("O", "B-LOC", "I-LOC"))
  assert list(examples.labels) == ["O B-LOC O", "B-LOC I-LOC I-LOC", "O"]
  assert list(examples.inputs.array()) == ["a New\u00a0York b", "Bonn am Rhein", "b"]


def test_lists_of_words_and_tags_are_read_from_python_text(tmp_path):
  rows = [
    {"text": str(["New York", "is"]), "label": str(["B-LOC", "O"])},
    {"text": "['a' 'b' 'c']", "label": "['O' 'B-LOC' 'O']"},
  ]
  task, examples = choose_rows(tmp_path, rows)
  assert task.name == "token_classification" and list(examples.labels) == ["B-LOC O", "O B-LOC O"]
  assert list(examples.inputs.array()) == ["New\u00a0York is", "a b c"]


THREE = ["one two three"] * 3


@pytest.mark.parametrize(
  ("labels", "texts", "message"),
  [
    (
      [[0, 0, 3], [3, 0, 0], [5, 0, 0]],
      THREE,
      r"one for each word, e.g. \[0, 0, [13]\]: they are numbers of tags; name them by --label_names",
    ),
    (
      [[0, 0, 1], [1, 0, 0], [0, 0, 0]],
      THREE,
      r"one for each word, e.g. \[0, 0, [13]\]: they are numbers of tags; name them by --label_names",
    ),
    ([["NOUN", "VERB", "NOUN"]] * 3, THREE, "as long as the texts have words.*give one tag per word"),
    ([[0.25, 0.75], [0.5, 0.5]], None, "lists of numbers that are not whole, e.g. .0.25, 0.75.:"),
    ([[1, 0, -1], [0, 0, 1], [1, 1, -1]], None, r"vectors of 0, 1 and -1, .*\(-1 in 2 rows\)"),
    ([[1, 2], [3, 3, 1]], None, "holds a number twice"),
    (["{'pay': 1, 'post': 0}", "{}"], None, "labels are dictionaries, e.g. {'pay': 1, 'post': 0}: write the list of"),
    (["[pay, post]", "[tech]"], None, r"lists without quotes, e.g. .pay, post.: write the names alone, 'pay, post'"),
    (["{pay,post}", "{tech}"], None, "lists without quotes"),
    (
      [[["pay", 0.9]], [["tech", 0.8]]],
      None,
      "list of lists or of objects, ...pay., 0.9..: write the list of the names",
    ),
    ([[{"start": 0, "label": "PER"}], []], None, "list of lists or of objects, ..'start': 0"),
    (['[["pay"]] ', '[["tech"]]'], None, "lists of lists or of objects, e.g. ...pay"),
    (['{"pay": true}', '{"pay": false}'], None, "labels are dictionaries.* with --label_columns"),
    (
      ["DT NN VB", "DT NN NN", "DT VB DT"],
      THREE,
      "as many words as the texts, e.g. 'DT': .* needs one tag per word: O",
    ),
  ],
)
def test_lists_that_hold_no_names_are_refused(tmp_path, labels, texts, message):
  with pytest.raises(UserError, match=message) as error:
    choose(tmp_path, labels, texts, ".jsonl")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("labels", "names", "message"),
  [
    (VECTORS, "a,b", "has 2 names, but the labels are 0/1 vectors of 3 places"),
    (["0", "1", "7"], "a,b", "has 2 names, the last one for the number 1, but a label is '7'"),
    (["0", "cat"], "a,b", "a label is 'cat': remove the flag"),
  ],
)
def test_names_that_do_not_fit_the_numbers_are_refused(tmp_path, labels, names, message):
  with pytest.raises(UserError, match=message):
    choose(tmp_path, labels, label_names=names)


def kaggle(ids="first", sentences=6):
  """Returns rows of Kaggle's ner_dataset.csv; the id is on the first row of a sentence, or on all."""
  rows = []
  for number in range(sentences):
    for place, (word, tag) in enumerate([("in", "O"), ("New York", "B-geo"), (f"no{number}", "O")]):
      id = f"Sentence: {number}" if place == 0 or ids == "all" else ""
      rows.append({"Sentence #": id, "Word": word, "POS": "NN", "Tag": tag})
  return rows


@pytest.mark.parametrize("ids", ["first", "all"])
@pytest.mark.parametrize("flags", [{}, {"text_column": "Word", "label_column": "Tag"}])
def test_kaggles_words_become_sentences(tmp_path, ids, flags):
  task, examples = choose_rows(tmp_path, kaggle(ids), **flags)
  assert task.name == "token_classification" and task.names == ("O", "B-geo", "I-geo")
  assert len(examples) == 6 and examples.ids[1] == "data.csv:5"
  assert examples.inputs.array()[1] == "in New\u00a0York no1" and examples.labels[1] == "O B-geo O"
  assert any("18 words are 6 sentences" in note for note in examples.notes)


def test_words_of_other_columns_need_the_column_of_the_sentence(tmp_path):
  rows = [{"id": row["Sentence #"], "text": row["Word"].split()[-1], "label": row["Tag"]} for row in kaggle("all")]
  with pytest.raises(UserError, match="every text is one word and every label is one tag.* by --sentence_column"):
    choose_rows(tmp_path, rows)
  with pytest.raises(UserError, match="by --sentence_column"):
    choose_rows(tmp_path, rows, task="token_classification")
  assert choose_rows(tmp_path, rows, task="single_label")[0].names == ("B-geo", "O")
  assert len(choose_rows(tmp_path, rows, sentence_column="id")[1]) == 6
  with pytest.raises(UserError, match="no column 'ids' .--sentence_column.*did you mean id"):
    choose_rows(tmp_path, rows, sentence_column="ids")
  with pytest.raises(UserError, match="do not follow each other: sort the table"):
    choose_rows(tmp_path, rows[::3] + rows[1::3] + rows[2::3], sentence_column="id")


def test_a_word_or_tag_that_is_absent_is_told_by_its_row(tmp_path):
  rows = kaggle()
  rows[4]["Tag"] = ""
  with pytest.raises(UserError, match="data.csv:5: data.csv:6: it has no label"):
    choose_rows(tmp_path, rows)
  rows = kaggle()
  rows[0]["Word"] = " "
  assert len(choose_rows(tmp_path, rows, on_bad_example="skip")[1]) == 5


def two_columns(values):
  return [{"text": f"a text {i}", "pay": i % 2, "late": value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (["1", "0", "-1", "1", "-1", "0"], r"'late' of --label_columns holds -1 .2 rows., the rest is 0 and 1: make it 0"),
    (["1.0", "0.0", "-1.0", "1.0"], r"holds -1 .1 row."),
    (["1", "0", "maybe", "1"], r"'late' of --label_columns holds 'maybe' .1 row.: write 0 or 1"),
    (
      ["1", "0", "", "1"],
      r"data.csv:4: it has no label in the column 'late' of --label_columns, where 0 stands for no .1 of 4",
    ),
  ],
)
def test_columns_of_classes_tell_column_value_and_number_of_rows(tmp_path, values, message):
  with pytest.raises(UserError, match=message):
    choose_rows(tmp_path, two_columns(values), label_columns="pay,late")


@pytest.mark.parametrize(
  ("mark", "name"), [("\n", "multi_label"), ("\t", "multi_label"), ("/", "single_label"), (" ", "single_label")]
)
def test_a_separator_of_classes_is_used_or_named(tmp_path, mark, name):
  labels = [mark.join(names) for names in SETS if names] + ["post", "tech"] * 2
  task, examples = choose(tmp_path, labels)
  assert task.name == name
  advice = f"if 'pay{mark}post' is several classes, pass --label_separator={mark!r}"
  assert (advice in tasks.guess(Config().data, set(examples.labels))[1]) == (name == "single_label")
  assert choose(tmp_path, labels, label_separator=mark)[0].names == NAMES


def test_digits_0_and_1_side_by_side_are_a_vector(tmp_path):
  task, examples = choose(tmp_path, ["010", "110", "001", "011"], label_names="pay,post,tech")
  assert task.names == NAMES and task.codec.classes(examples.labels)[1] == ("pay", "post")
  assert list(choose(tmp_path, ["100", "101", "110"])[1].labels) == ["100", "101", "110"]


def test_yes_and_no_are_flags(tmp_path):
  task, examples = choose_rows(tmp_path, two_columns(["Yes", "no", "Y", "N"]), label_columns="pay,late")
  assert task.name == "multi_label" and task.codec.classes(examples.labels) == [
    ("late",),
    ("pay",),
    ("late",),
    ("pay",),
  ]


def test_minus_1_can_be_an_amount(tmp_path):
  flags = {"label_columns": "pay,late"}
  values = ["1", "0", "-1", "1"]
  assert choose_rows(tmp_path, two_columns(values), **flags, task="regression")[0].name == "regression"
  assert choose_rows(tmp_path, two_columns([*values, "2.5"]), **flags)[0].name == "regression"


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    ([f"1,{i:03}.50" for i in range(40)], "40 different numbers, some with separators or units, e.g. '1,000.50'"),
    ([f"{i},5" for i in range(40)], "separators or units, e.g. '0,5': write them like 1013.5"),
    ([f"{i % 5 + 1},{100 * (i // 5):03}" for i in range(40)], "separators or units"),
    ([f"$ {i}.99" for i in range(40)], "separators or units"),
    ([f"1.{i:03},50 €" for i in range(40)], "separators or units"),
    ([f"{i} %" for i in range(40)], "separators or units"),
    ([f"({i}.5)" if i % 2 else f"{i}.5" for i in range(40)], "separators or units, e.g. '.1.5.'"),
    ([f"{i}.5-" for i in range(40)], "separators or units"),
    ([f"\u2212{i}.5" for i in range(40)], "separators or units"),
    ([f"1’{i:03}.50" for i in range(40)], "separators or units"),
    ([f"12,{i:02},567" for i in range(40)], "separators or units"),
    ([f"{i}.5k" for i in range(40)], "separators or units"),
    ([f"{i} kg" for i in range(40)], "separators or units"),
    ([f"{i}.5" for i in range(40)] + ["NaN"] * 3, "40 different numbers, but 3 rows hold 'NaN': correct or remove"),
    (
      [f"user_{i}" for i in range(40)],
      "40 different values in 40 rows, like an identifier.*another --label_column, or",
    ),
    ([str(i) for i in range(40)] * 2, "40 different values in 80 rows.*--task=regression if they are amounts, or"),
    ([f"2024-01-{i % 30}" for i in range(60)], "like an identifier"),
  ],
)
def test_labels_that_are_no_classes_stop_in_one_line(tmp_path, labels, message):
  with pytest.raises(UserError, match=message) as error:
    choose(tmp_path, labels)
  assert "\n" not in str(error.value)
  assert choose(tmp_path, labels, task="single_label")[0].name == "single_label"


@pytest.mark.parametrize(
  "labels",
  [
    [f"intent {i % 40}" for i in range(120)],
    [f"{i}" for i in range(20)],
    [f"v1.{i}" for i in range(5)] * 2,
    ["A (x)", "B [y]", "1,000", "Washington, DC"],
  ],
)
def test_names_of_classes_stay_what_they_are(tmp_path, labels):
  task, examples = choose(tmp_path, labels)
  assert task.name == "single_label" and list(examples.labels) == labels


@pytest.mark.parametrize(
  "rows",
  [
    [["pay", None], ["post ", "pay"], [" post", ""]],
    ["['pay', None]", "['post ', 'pay']", "[' post', '']"],
    ['["pay", null]', '["post ", "pay"]', '[" post", ""]'],
  ],
)
def test_blank_and_missing_members_of_a_list_are_no_classes(tmp_path, rows):
  task, examples = choose(tmp_path, rows * 2, suffix=".jsonl")
  assert task.codec.names == ("pay", "post")
  assert task.codec.classes(examples.labels[:3]) == [("pay",), ("pay", "post"), ("post",)]


def test_codes_of_0_and_1_and_names_of_folders_are_no_vectors(tmp_path):
  assert choose(tmp_path, ["000", "001"] * 3)[0].codec.names == ("000", "001")
  assert choose(tmp_path, ["001", "010", "100"] * 3)[0].codec.names == ("class_0", "class_1", "class_2")
  config = Config(dataset="images:photos")
  assert label_names.resolve(["001", "010", "100"], config.data) == (["001", "010", "100"], [])


def test_a_name_with_an_underscore_is_no_number():
  assert cells.number("1_000") is None and cells.number("1000") == 1000


def test_one_column_of_label_columns_is_told_to_be_the_label_column(tmp_path):
  rows = [{"text": f"a text about {n}", "late": n % 2} for n in range(8)]
  with pytest.raises(UserError, match="--label_columns=late names one column: pass --label_column=late"):
    choose_rows(tmp_path, rows, label_columns="late")


def test_lists_as_long_as_the_texts_are_shown_whole(tmp_path):
  rows = [{"text": ["Anna", "lives"], "label": [1, 0]}] * 6
  with pytest.raises(UserError, match=r'as the texts, e.g. \["1", "0"\]: if they are tags'):
    choose_rows(tmp_path, rows, suffix=".jsonl")


def test_a_sentence_of_no_words_is_an_empty_text(tmp_path):
  rows = [{"text": ["Anna", "lives"], "label": ["B-per", "O"]}, {"text": [], "label": []}]
  _, examples = choose_rows(tmp_path, rows, suffix=".jsonl", on_bad_example="skip")
  assert [bad["reason"] for bad in examples.skipped] == ["the text is empty"]


def test_amounts_that_32_bits_do_not_hold_are_refused(tmp_path):
  with pytest.raises(UserError, match="a label is 2.5e\\+39, more than 32 bits hold: give the labels in a larger unit"):
    choose(tmp_path, [f"{i}.5e39" for i in range(3)] * 2, task="regression")
