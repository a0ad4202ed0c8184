"""Tags of words: their schemes, the files that hold them, and the metrics of the entities that they mark."""

import gzip
import json

import numpy as np
import pyarrow
import pytest
import seqeval.metrics
import tensorflow as tf
from pyarrow import parquet

from tl_app import data, tasks
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.data.readers.table_formats import open_table
from tl_app.errors import UserError
from tl_app.tasks import TOKEN_CLASSIFICATION, tags
from tl_app.tasks.token_classification import NO_WORD

TASK = TOKEN_CLASSIFICATION.with_codec(names=("O", "B-a", "I-a", "B-b", "I-b"), words_per_example=4.0)


def load(path, **flags):
  config = Config(dataset=f"table:{path}", **flags)
  return config, data.load(config, Assets(offline=True))


@pytest.mark.parametrize(
  ("given", "scheme", "bio"),
  [
    ("O B-a I-a B-a O", "BIO", "O B-a I-a B-a O"),
    ("I-a I-a B-a I-a I-b O", "IOB1", "B-a I-a B-a I-a B-b O"),
    ("S-a B-b I-b E-b O S-a S-a", "IOBES", "B-a B-b I-b I-b O B-a B-a"),
    ("U-a B-b L-b O", "BILOU", "B-a B-b I-b O"),
    ("B-b M-b E-b", "IOBES", "B-b I-b I-b"),
    ("O B-creative-work I-creative-work", "BIO", "O B-creative-work I-creative-work"),
    ("B-a O I-a I-b", "BIO", "B-a O B-a B-b"),
  ],
)
def test_every_scheme_is_read_as_bio(given, scheme, bio):
  assert tags.scheme([given]) == scheme
  assert tags.bio(given.split()) == bio.split()
  task = TOKEN_CLASSIFICATION.configure(Config(), [given, "O O"])
  assert task.codec.scheme == scheme and ("turned into BIO" in task.fit([given]).codec.describe()) == (scheme != "BIO")


def test_an_entity_type_has_both_tags_whatever_train_holds():
  task = TOKEN_CLASSIFICATION.fit(["O S-b", "B-a O O O"])
  assert task.names == ("O", "B-a", "I-a", "B-b", "I-b") and task.codec.words_per_example == 3
  np.testing.assert_array_equal(task.codec.targets(["O I-b", "B-a"]), [[0, 3], [1, NO_WORD]])
  assert tasks.from_config(json.loads(json.dumps(task.get_config()))) == task
  with pytest.raises(UserError, match="'B-c' is unknown; the model knows: O, B-a"):
    task.codec.targets(["B-c"])
  with pytest.raises(UserError, match="no entity: every tag is O"):
    task.fit(["O O"])


def test_words_are_the_same_in_python_and_in_the_graph():
  text = " a\tb\u00a0c  d\u3000e\n\x0b\u200b f\x1cg\u2028h "
  words = tags.words(text)
  assert words == [word.decode() for word in tf.strings.split([text])[0].numpy()]
  assert [text[start:end] for start, end in tags.spans(text)] == words
  assert tags.words(tags.joined(["New  York", "is", "big"])) == ["New\u00a0York", "is", "big"]


def test_conll_files_are_read_with_their_splits_columns_and_comments(tmp_path):
  (tmp_path / "train.conll").write_text(
    "-DOCSTART- -X- O O\n\n# id = 1\nEU NNP I-NP I-ORG\r\n# SYM O O\n\n\n \t \nBonn NNP I-NP B-LOC\nis VBZ B-VP O\n"
  )
  with gzip.open(tmp_path / "test.conll.gz", "wt") as file:
    file.write("New York\tx\ty\tB-LOC\n#\tx\ty\tO")
  config, examples = load(tmp_path)
  assert list(examples.inputs.array()) == ["EU #", "Bonn is", "New\u00a0York #"]
  assert list(examples.labels) == ["I-ORG O", "B-LOC O", "B-LOC O"]
  assert list(examples.splits) == ["train", "train", "test"] and examples.ids[1] == "train.conll:9"
  assert tasks.choose(config, examples)[0].name == "token_classification"
  assert list(load(tmp_path, label_column="3")[1].labels[:2]) == ["I-NP O", "I-NP B-VP"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("Bonn\nis\n", "its lines have one column, e.g. line 1"),
    ("\n\n", "it is empty"),
    ("Bonn\tB-LOC\nis\tO\tX\n", "train.conll:1: line 1 has 2 columns, others have 3"),
    ("a O\n\nBonn LOC\n", "train.conll:3: line 3: 'LOC' is no tag: O, or B- and I-"),
    ("Bonn\tB-LOC\n\tO\n", "train.conll:1: line 2 has an empty column"),
    ("Bonn B-\n", "line 1: 'B-' is no tag"),
  ],
)
def test_faults_of_conll_files_are_told_by_line(tmp_path, text, message):
  (tmp_path / "train.conll").write_text(text)
  with pytest.raises(UserError, match=message) as caught:
    load(tmp_path)
  assert "\n" not in str(caught.value) and "train.conll" in str(caught.value)


def test_bad_sentences_can_be_skipped(tmp_path):
  (tmp_path / "train.conll").write_text("a O\n\nBonn LOC\n\nBonn B-LOC\n")
  _, examples = load(tmp_path, on_bad_example="skip")
  assert list(examples.inputs.array()) == ["a", "Bonn"] and "line 3" in examples.skipped[0]["reason"]


def test_lists_of_words_and_tags_are_read_from_tables(tmp_path):
  rows = [{"text": ["New York", "is"], "label": ["B-LOC", "O"]}, {"text": ["a"], "label": ["I-big place"]}]
  (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
  config, examples = load(tmp_path / "a.jsonl")
  assert list(examples.inputs.array()) == ["New\u00a0York is", "a"] and list(examples.labels) == [
    "B-LOC O",
    "I-big_place",
  ]
  (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row | {"text": row["text"][:1]}) for row in rows))
  with pytest.raises(UserError, match="b.jsonl:1 has 1 words, separated by white space, but 2 tags"):
    tasks.choose(*load(tmp_path / "b.jsonl"))


def test_hugging_faces_numbers_of_tags_have_names(tmp_path):
  names = {"feature": {"names": ["O", "B-LOC"], "_type": "ClassLabel"}, "_type": "Sequence"}
  features = {"tokens": {"feature": {"dtype": "string"}}, "ner_tags": names, "kind": names["feature"]}
  table = pyarrow.table({"tokens": [["Bonn", "is"], ["a"]], "ner_tags": [[1, 0], [0]], "kind": [1, -1]})
  table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
  parquet.write_table(table, tmp_path / "train.parquet")
  flags = {"text_column": "tokens", "label_column": "ner_tags"}
  _, examples = load(tmp_path / "train.parquet", **flags)
  assert list(examples.inputs.array()) == ["Bonn is", "a"] and list(examples.labels) == ["B-LOC O", "O"]
  rows = [row for _, row in open_table(tmp_path / "train.parquet").rows]
  assert [row[2] for row in rows] == ["B-LOC", None]


@pytest.mark.parametrize(
  ("labels", "found"),
  [
    ({"O O B-a", "B-a"}, True),
    ({"O O", "O"}, False),
    ({"B-a", "O"}, False),
    ({"O B-a", "spam"}, False),
    ({"a O", "B-b"}, False),
  ],
)
def test_auto_takes_only_tags_for_tags(labels, found):
  assert (tasks.guess(Config(), labels)[0] == "token_classification") == found


def random_answers(n=60, seed=0):
  """Returns (targets [n, 9] of 1 to 9 words, logits [n, 7, 5], better than chance)."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, 10, n)
  bio = [tags.bio(rng.choice(TASK.names, length, p=[0.4, 0.2, 0.1, 0.2, 0.1])) for length in lengths]
  targets = np.full((n, 9), NO_WORD, np.int32)
  for row, tagged in zip(targets, bio):
    row[: len(tagged)] = [TASK.names.index(tag) for tag in tagged]
  logits = rng.normal(size=(n, 7, 5)).astype(np.float32)
  known = targets[:, :7] != NO_WORD
  logits[known, targets[:, :7][known]] += 2
  logits[~known] = 0
  return targets, logits


def test_metrics_are_those_of_seqeval():
  targets, logits = random_answers()
  metrics = TASK.metrics.compute_metrics(logits, targets)
  truth = [[TASK.names[i] for i in row if i != NO_WORD] for row in targets]
  answer = [[TASK.names[i] for i in row] + ["O", "O"] for row in logits.argmax(axis=-1)]
  answer = [row[: len(true)] for row, true in zip(answer, truth)]
  assert metrics["f1"] == pytest.approx(seqeval.metrics.f1_score(truth, answer))
  assert metrics["word_accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(truth, answer))
  report = seqeval.metrics.classification_report(truth, answer, output_dict=True)
  assert metrics["precision"] == pytest.approx(report["micro avg"]["precision"])
  for kind, row in metrics["per_class"].items():
    assert row["f1"] == pytest.approx(report[kind]["f1-score"]) and row["support"] == report[kind]["support"]
  low, high = metrics["f1_ci95"]
  assert low < metrics["f1"] < high and high - low < 0.25
  assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
  assert metrics["num_words"] == sum(map(len, truth)) and TASK.metrics.score(logits, targets) == metrics["f1"]


def test_the_paired_test_sees_a_better_tagger_and_no_difference_in_noise():
  targets, logits = random_answers(200)
  noise = np.random.default_rng(1).normal(size=(2, *logits.shape))
  good, fair, fair_too = logits + 0.2 * noise[0], logits + 2 * noise[0], logits + 2 * noise[1]
  assert TASK.metrics.p_value(fair, good, targets) < 0.01 < TASK.metrics.p_value(fair, fair_too, targets)
  assert TASK.metrics.p_value(fair, fair, targets) == 1


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_padding_changes_no_loss(label_smoothing):
  targets, logits = random_answers()
  loss = TASK.loss.loss(label_smoothing)
  plain = loss(targets, tf.constant(logits)).numpy()
  longer = np.pad(targets, [(0, 0), (0, 5)], constant_values=NO_WORD)
  more = np.pad(logits, [(0, 0), (0, 6), (0, 0)], constant_values=7.0)
  more[:, 7:9] = 0
  np.testing.assert_allclose(loss(longer, tf.constant(more)), plain, rtol=1e-6)
  known = targets != NO_WORD
  padded = np.pad(logits, [(0, 0), (0, 2), (0, 0)])
  rows = loss(targets[known], tf.constant(padded[known])).numpy()
  assert plain.sum() * TASK.codec.words_per_example == pytest.approx(rows.sum(), rel=1e-5)
  if not label_smoothing:
    assert rows.mean() == pytest.approx(TASK.loss.mean_loss(logits, targets), rel=1e-5)


def test_a_scikit_learn_head_never_answers_a_tag_that_train_lacks():
  rng = np.random.default_rng(0)
  y = rng.choice([0, 1, 3], 300)
  x = np.eye(4)[y] + 0.1 * rng.normal(size=(300, 4))
  for solver in ("logistic", "svm"):
    kernel, bias = TASK.loss.probe_weights(TASK.loss.probe_estimators(solver)[-1][1].fit(x, y))
    assert kernel.shape == (4, 5)
    np.testing.assert_array_equal((x @ kernel + bias).argmax(axis=1), y)
