"""`splits`: nothing leaks, every class is everywhere, the same contents give the same splits."""

import collections
import dataclasses
import hashlib
import random
import re

import numpy as np
import pytest
from loading import load

from tl_app import files
from tl_app.config import Config
from tl_app.data.examples import SPLITS, Examples, Inputs, strings
from tl_app.data.splitting import shared_texts, splits
from tl_app.errors import UserError


def examples_of(rows, skipped=()):
  """Returns text `Examples` of (text, label) or (text, label, split)."""
  rows = [(*row, "")[:3] for row in rows]
  return Examples(
    ids=strings([f"row:{number}" for number in range(len(rows))]),
    inputs=Inputs.of("text", [text for text, _, _ in rows]),
    labels=strings([label for _, label, _ in rows]),
    hashes=strings([hashlib.sha256(text.encode()).hexdigest() for text, _, _ in rows]),
    splits=strings([split for _, _, split in rows]),
    skipped=list(skipped),
    source="the rows",
  )


def plain(per_class=20, labels=("a", "b", "c"), split="", prefix=""):
  return [(f"{prefix}{label} {number}", label, split) for label in labels for number in range(per_class)]


def make(rows, **flags):
  return splits.make(examples_of(rows), Config(**flags))


def refusal(rows, **flags):
  with pytest.raises(UserError) as caught:
    make(rows, **flags)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def hashes(made, split):
  return set(made.examples.hashes[getattr(made, split)])


def ids(made, split):
  return set(made.examples.ids[getattr(made, split)])


def assert_partition(made, number):
  """No example twice, none forgotten, no content in two splits."""
  every = np.concatenate([made.train, made.validation, made.test])
  assert sorted(every) == list(range(number))
  assert not hashes(made, "train") & hashes(made, "validation")
  assert not hashes(made, "train") & hashes(made, "test")
  assert not hashes(made, "validation") & hashes(made, "test")


def random_tree(root, rng):
  """Writes a tree of classes with names that sort badly, sizes that differ, and copies within and across classes."""
  names = rng.sample(["a", "Z", "10", "9", "é", "zebra", "_x", "B b", "tulips", "00"], rng.randint(2, 6))
  number = 0
  for name in names:
    (root / name).mkdir(parents=True)
    for _ in range(rng.randint(3, 60)):
      (root / name / f"{rng.randint(0, 10**6)}_{number}.jpg").write_bytes(b"good %d" % number)
      number += 1
  originals = sorted(root.rglob("*.jpg"))
  for copy in range(rng.randint(0, 20)):
    source = rng.choice(originals)
    folder = source.parent.name if rng.random() < 0.7 else rng.choice(names)
    (root / folder / f"copy{copy}.png").write_bytes(source.read_bytes())
  return names


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(25))
def test_random_trees_never_leak(tmp_path, trial):
  """Fault C1 of a well-known tool: validation was the alphabetical tail, 80 % of it in train as well."""
  rng = random.Random(trial)
  names = random_tree(tmp_path, rng)
  config = Config(dataset=f"images:{tmp_path}", split_seed=trial)
  examples = load(config.dataset, verify=lambda _: None)
  made = splits.make(examples, config)
  assert_partition(made, len(examples))
  assert set(made.examples.labels[made.train]) == set(names)
  own = collections.defaultdict(set)
  owners = collections.defaultdict(set)
  for digest, label in zip(examples.hashes, examples.labels):
    owners[digest].add(label)
  for digest, labels in owners.items():
    if len(labels) == 1:
      own[next(iter(labels))].add(digest)
  for split in SPLITS:
    present = set(examples.labels[getattr(made, split)])
    assert present >= {name for name in names if len(own[name]) >= 3}
  slack = 1.5 * len(names) + 20
  assert abs(len(made.test) - 0.2 * len(examples)) <= slack
  assert abs(len(made.validation) - 0.08 * len(examples)) <= slack

  order = rng.sample(range(len(examples)), len(examples))
  permuted = splits.make(examples.take(np.array(order)), config)
  for split in SPLITS:
    assert ids(permuted, split) == ids(made, split)


def test_fractions_are_met_in_every_class():
  made = make(plain(100), test_fraction=0.3, validation_fraction=0.2)
  counts = made.manifest()["counts"]
  assert counts["test"] == {"a": 30, "b": 30, "c": 30}
  assert counts["validation"] == {"a": 14, "b": 14, "c": 14}
  assert counts["train"] == {"a": 56, "b": 56, "c": 56}


def test_seed_changes_the_splits_and_nothing_else_does():
  rows = plain(50)
  assert ids(make(rows), "test") == ids(make(rows, seed=7, batch_size=8), "test")
  assert ids(make(rows), "test") != ids(make(rows, split_seed=1), "test")


def test_more_examples_move_few_of_the_old_ones():
  rows = plain(100)
  before, after = make(rows), make(rows + plain(5, prefix="new "))
  moved = sum(len(ids(before, split) - ids(after, split)) for split in SPLITS)
  assert moved <= 24


def test_copies_stay_together_whatever_their_labels():
  rows = plain(30) + [("a 1", "b"), ("a 1", "a"), ("b 2", "b"), ("c 3", "a")]
  for seed in range(20):
    assert_partition(make(rows, split_seed=seed), len(rows))
  notes = " ".join(make(rows).notes)
  assert "repeat an earlier one: 4" in notes
  assert "more than one label: 2, e.g. row:1 (a) and row:90 (b)" in notes


def test_a_text_that_repeats_often_does_not_swallow_a_split():
  rows = plain(10) + [("a 0", "a")] * 200
  for seed in range(20):
    made = make(rows, split_seed=seed)
    assert np.sum(made.examples.hashes[made.train] == made.examples.hashes[0]) in (0, 201)
    for split in SPLITS:
      assert set(made.examples.labels[getattr(made, split)]) == {"a", "b", "c"}


def test_three_contents_are_enough_for_every_split():
  for seed in range(20):
    made = make(plain(3), split_seed=seed)
    for split in SPLITS:
      assert sorted(made.examples.labels[getattr(made, split)]) == ["a", "b", "c"]


def test_amounts_that_are_all_the_same_are_no_classes():
  with pytest.raises(UserError, match="all labels of train are 5: there is nothing to learn"):
    splits.make(examples_of([(f"text {i}", "5") for i in range(9)]), Config(), named=False)


def test_a_class_of_one_trains_and_is_told():
  made = make(plain(20) + [("lonely", "d"), ("e 1", "e"), ("e 2", "e")])
  counts = made.manifest()["counts"]
  assert counts["train"]["d"] == 1
  assert counts["train"]["e"] == 1
  assert counts["test"]["e"] == 1
  assert any("'d' (1), 'e' (2)" in note for note in made.notes)


def test_a_class_whose_contents_are_all_of_others_stays_in_train():
  rows = plain(3, labels=("a", "b", "c", "d")) + [(f"{other} 0", "x") for other in "abcd"]
  for seed in range(50):
    made = make(rows, split_seed=seed, test_fraction=0.5, validation_fraction=0.5)
    assert set(made.examples.labels[made.train]) == set("abcdx")
    assert_partition(made, len(rows))


def test_given_splits_are_kept():
  rows = plain(9, split="train") + plain(3, split="validation", prefix="v") + plain(4, split="test", prefix="t")
  made = make(rows)
  assert (len(made.train), len(made.validation), len(made.test)) == (27, 9, 12)
  assert made.settings["sampled"] == []


@pytest.mark.parametrize("given, drawn", [("test", "validation"), ("validation", "test")])
def test_what_is_not_given_is_drawn_from_train_and_leaks_into_nothing(given, drawn):
  rows = plain(20, split="train") + plain(5, split=given, prefix="g")
  rows += [("a 0", "a", given), ("b 1", "b", given), ("c 2", "c", given)]
  for seed in range(20):
    made = make(rows, split_seed=seed)
    assert made.settings["sampled"] == [drawn]
    assert len(getattr(made, given)) == 18
    assert not hashes(made, drawn) & (hashes(made, given) | hashes(made, "train"))
    assert any(note.startswith(f"{given} texts that are also in train: 3") for note in made.notes)
    assert {"a", "b", "c"} == set(made.examples.labels[getattr(made, drawn)])


def pairs_of(pairs):
  """Returns `Examples` of (text, other text, label)."""
  examples = examples_of([(f"{one}\xff{other}", label) for one, other, label in pairs])
  inputs = Inputs.from_rows({"text": "text", "text_pair": "text"}, [pair[:2] for pair in pairs])
  return dataclasses.replace(examples, inputs=inputs)


def common_texts(made, split):
  """Returns how many pairs of a split have a text that train has too."""
  return len(
    {i for pairs in shared_texts.shared(made.fingerprints, getattr(made, split), made.train).values() for i, _ in pairs}
  )


def chains(number, rng):
  """Returns pairs in groups of 1 to 6, in which each pair has a text of the one before, as its first or second."""
  pairs = []
  for group in range(number):
    text = f"start {group}"
    for step in range(rng.randint(1, 6)):
      other = f"text {group} {step}"
      pairs.append((*rng.sample([text, other.upper()], 2), rng.choice(["yes", "no"])))
      text = other
  return pairs


def test_pairs_with_a_text_in_common_stay_in_one_split():
  rng = random.Random(0)
  pairs = chains(150, rng)
  examples = pairs_of(pairs)
  made = splits.make(examples, Config())
  assert_partition(made, len(pairs))
  assert common_texts(made, "validation") == common_texts(made, "test") == 0
  assert any(f"stay in one split: 150 groups of {len(pairs)} pairs, the largest has 6" in note for note in made.notes)
  assert abs(len(made.test) - 0.2 * len(pairs)) <= 2 and abs(len(made.validation) - 0.08 * len(pairs)) <= 2
  labels = examples.labels == "yes"
  assert abs(labels[made.test].mean() - labels.mean()) < 0.02
  # Not only the single pairs are in test.
  group = np.array([int(re.search(r"\d+", " ".join(pair[:2]))[0]) for pair in pairs])
  sizes = np.bincount(group)[group]
  assert abs(sizes[made.test].mean() - sizes.mean()) < 0.2
  order = np.array(rng.sample(range(len(pairs)), len(pairs)))
  again = splits.make(examples.take(order), Config())
  assert ids(again, "test") == ids(made, "test") and ids(again, "validation") == ids(made, "validation")


def test_pairs_without_common_texts_are_split_as_single_texts_are():
  pairs = [(f"one {i}", f"two {i}", "ab"[i % 2]) for i in range(60)]
  made = splits.make(pairs_of([*pairs, pairs[0]]), Config())
  single = make([(f"{one}\xff{two}", label) for one, two, label in [*pairs, pairs[0]]])
  for split in SPLITS:
    assert ids(made, split) == ids(single, split)
  assert not any("in common" in note for note in made.notes)


def test_where_all_pairs_hang_together_one_column_is_kept_apart_or_none():
  aspects = [(f"review {i}", aspect, label) for i in range(80) for aspect, label in (("food", "a"), ("staff", "b"))]
  made = splits.make(pairs_of(aspects), Config())
  reviews = {split: {aspects[i][0] for i in getattr(made, split)} for split in SPLITS}
  assert not (reviews["test"] | reviews["validation"]) & reviews["train"]
  assert any("in common in the column --text_column stay in one split: 80 groups of 160" in note for note in made.notes)
  few = pairs_of([(f"query {i % 10}", f"answer {i // 10}", "ab"[i % 2]) for i in range(100)])
  made = splits.make(few, Config())
  single = splits.make(dataclasses.replace(few, inputs=Inputs.of("text", few.hashes)), Config())
  assert all(ids(made, split) == ids(single, split) for split in SPLITS)
  assert common_texts(made, "test") == len(made.test) == 20


def test_labels_that_train_lacks_are_refused_by_name():
  message = refusal(plain(9, split="train") + [("x", "new", "test"), ("y", "new", "test"), ("z", "a", "test")])
  assert "labels of test that train has no example of: 'new' (2);" in message


def test_too_little_is_refused():
  assert "one class in train, 'a'" in refusal(plain(9, labels=("a",)))
  assert "no training examples, only test" in refusal(plain(9, split="test"))
  assert "no examples for validation" in refusal(plain(2))
  assert "three different examples" in refusal([("same", "a"), ("same", "a"), ("other", "b")])


def test_max_examples_is_stratified_nested_and_of_train_only():
  rows = plain(60, labels=("a", "b")) + plain(20, labels=("c",)) + plain(3, labels=("d",))
  whole, some, few = make(rows), make(rows, max_examples=40), make(rows, max_examples=4)
  assert ids(some, "test") == ids(whole, "test")
  assert ids(few, "train") <= ids(some, "train") <= ids(whole, "train")
  counts = collections.Counter(some.examples.labels[some.train])
  assert sum(counts.values()) == 40
  assert counts["a"] in (16, 17, 18)
  assert abs(counts["a"] - counts["b"]) <= 1
  assert set(few.examples.labels[few.train]) == {"a", "b", "c", "d"}
  assert len(make(rows, max_examples=10_000).train) == len(whole.train)
  assert "--max_examples=3 is below the number of classes, 4" in refusal(rows, max_examples=3)


def test_max_examples_per_class_is_nested_and_of_train_only():
  rows = plain(60, labels=("a", "b")) + plain(20, labels=("c",)) + plain(3, labels=("d",))
  whole, five = make(rows), make(rows, max_examples_per_class=5)
  assert ids(five, "test") == ids(whole, "test")
  assert ids(make(rows, max_examples_per_class=2), "train") <= ids(five, "train") <= ids(whole, "train")
  counts = collections.Counter(five.examples.labels[five.train])
  assert (counts["a"], counts["b"], counts["c"]) == (5, 5, 5)
  assert 1 <= counts["d"] <= 3
  both = make(rows, max_examples_per_class=5, max_examples=8)
  assert len(both.train) == 8
  assert ids(both, "train") <= ids(five, "train")
  assert both.manifest()["max_examples_per_class"] == 5


def test_a_class_that_only_comes_beside_rarer_ones_needs_more_examples():
  rows = plain(60, labels=("c,a", "c,b"))
  examples = examples_of(rows)
  examples = dataclasses.replace(examples, classes=strings([tuple(label.split(",")) for label in examples.labels]))
  assert len(splits.make(examples, Config(max_examples_per_class=1)).train) == 2
  some = examples_of([*plain(30, labels=("c,a", "c,b")), *plain(25, labels=("a", "b"))])
  some = dataclasses.replace(some, classes=strings([tuple(label.split(",")) for label in some.labels]))
  few = [Config(max_examples_per_class=1, split_seed=seed) for seed in range(20)]
  with pytest.raises(UserError, match="--max_examples_per_class=1 leaves train no example of 'c'.*raise it"):
    for config in few:
      splits.make(some, config)


def test_manifest_tells_everything_and_is_read_back_in_any_order(tmp_path):
  rows = plain(20) + [("a 1", "a")]
  examples = examples_of(rows, skipped=[{"id": "row:99", "reason": "the text is empty"}])
  made = splits.make(examples, Config(split_seed=3, max_examples=30))
  manifest = made.manifest()
  files.write_json(tmp_path / "splits.json", manifest)
  assert files.read_json(tmp_path / "splits.json") == manifest
  assert (manifest["split_seed"], manifest["test_fraction"], manifest["source"]) == (3, 0.2, "the rows")
  assert manifest["skipped"] == [{"id": "row:99", "reason": "the text is empty"}]
  assert len(manifest["splits"]["train"]["ids"]) == len(made.train) == 30
  assert any("removed: 1, e.g. row:99" in note for note in manifest["notes"])

  order = np.array(random.Random(0).sample(range(len(rows)), len(rows)))
  again = splits.read(tmp_path / "splits.json", examples.take(order))
  for split in SPLITS:
    assert ids(again, split) == ids(made, split)
  assert again.settings == made.settings
  grown = splits.read(tmp_path / "splits.json", examples_of(rows + [("new", "a")]))
  assert ids(grown, "train") == ids(made, "train")
  assert any("are ignored: 1" in note for note in grown.notes)


def test_a_manifest_is_read_by_content_where_rows_have_other_ids(tmp_path):
  rows = plain(20) + [("a 1", "a")]
  made = make(rows)
  files.write_json(tmp_path / "splits.json", made.manifest())
  again = splits.read(tmp_path / "splits.json", examples_of([("", "a"), *rows]).take(np.arange(1, len(rows) + 1)))
  for split in SPLITS:
    assert sorted(again.examples.hashes[getattr(again, split)]) == sorted(made.examples.hashes[getattr(made, split)])
    assert not set(ids(again, split)) & {"row:0"}


def test_manifest_of_other_contents_is_refused(tmp_path):
  path, rows = tmp_path / "splits.json", plain(20)
  files.write_json(path, make(rows).manifest())
  for change, word in [
    (rows[:-1], "is gone"),
    ([("edited", "a"), *rows[1:]], "has changed"),
    ([("a 0", "b"), *rows[1:]], "is relabelled"),
  ]:
    with pytest.raises(UserError, match=word):
      splits.read(path, examples_of(change))
  for text in ("{", "[]", '{"splits": {}}'):
    path.write_text(text)
    with pytest.raises(UserError, match="not a manifest"):
      splits.read(path, examples_of(rows))
  with pytest.raises(UserError, match="cannot be read"):
    splits.read(tmp_path / "missing.json", examples_of(rows))


# Real data


def test_tf_flowers_has_every_class_in_every_split(shared):
  made = splits.make(load(f"images:{shared('data/tf_flowers/all')}", verify=lambda _: None), Config())
  assert_partition(made, 750)
  for split, number in (("train", 108), ("validation", 12), ("test", 30)):
    assert set(made.manifest()["counts"][split].values()) == {number}


def test_trashnet_notes_the_pairs_under_two_labels(shared):
  made = splits.make(load(f"images:{shared('data/trashnet')}", verify=lambda _: None), Config())
  assert len(made.train) + len(made.validation) + len(made.test) == 2527
  assert any("images with more than one label: 3" in note for note in made.notes)


def test_banking77_validation_shares_nothing(shared):
  made = splits.make(load(f"table:{shared('data/banking77')}"), Config())
  assert not hashes(made, "validation") & (hashes(made, "train") | hashes(made, "test"))
  assert len(set(made.examples.labels[made.validation])) == 77
  assert any("test texts that are also in train: 6" in note for note in made.notes)


def test_sms_spam_keeps_its_repeats_together(shared):
  made = splits.make(load(f"table:{shared('data/sms_spam/all.tsv')}"), Config())
  assert_partition(made, 5574)
  assert any("repeat an earlier one: 414" in note for note in made.notes)


def test_stsb_pairs_share_no_text_in_sampled_splits(shared):
  flags = {"text_column": "text_a", "text_pair_column": "text_b"}
  examples = load(f"table:{shared('data/stsb')}/train.tsv", **flags)
  made = splits.make(examples, Config(), named=False)
  assert_partition(made, 5749)
  assert common_texts(made, "test") == common_texts(made, "validation") == 0
  assert any("4,855 groups of 5,749 pairs, the largest has 245" in note for note in made.notes)
