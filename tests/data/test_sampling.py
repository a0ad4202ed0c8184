"""Near duplicates, groups and times: what belongs together stays together, and the latest are drawn."""

import collections
import io
import json
import random
import struct
import time
import warnings

import numpy as np
import PIL.Image
import pytest
from loading import load, write
from test_splits import examples_of, ids, plain

from tl_app.config import Config
from tl_app.data.examples import SPLITS, strings
from tl_app.data.splitting import duplicates, image_fingerprints, sampling, splits
from tl_app.data.splitting.fingerprints import Fingerprints
from tl_app.data.splitting.text_fingerprints import TextFingerprints, normalized
from tl_app.errors import UserError


def sets(made, values):
  """Returns [set of the values (array [n]) in each split]."""
  return [set(values[getattr(made, split)]) for split in SPLITS]


def assert_apart(made, groups):
  """No group in two splits, no example twice, none forgotten."""
  train, validation, test = sets(made, np.asarray(groups))
  assert not train & validation and not train & test and not validation & test
  assert sorted(np.concatenate([made.train, made.validation, made.test])) == list(range(len(groups)))


def shuffled(examples, seed):
  """Returns the examples in another order under other names."""
  order = np.array(random.Random(seed).sample(range(len(examples)), len(examples)))
  moved = examples.take(order)
  return order, moved


# Near duplicates


def picture(rng):
  coarse = rng.integers(0, 256, [6, 6, 3], dtype=np.uint8)
  return PIL.Image.fromarray(coarse).resize((96, 80), PIL.Image.Resampling.BICUBIC)


def save(image, path, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  image.save(path, **options)


@pytest.mark.parametrize("trial", range(8))
def test_random_trees_with_copies_and_near_copies_never_leak(tmp_path, trial):
  """Fault C1 of a well-known tool, with pictures that were saved again: names sort badly, copies cross classes."""
  rng, numbers = random.Random(trial), np.random.default_rng(trial)
  names = rng.sample(["a", "Z", "10", "9", "é", "zebra", "_x", "B b", "00"], rng.randint(2, 4))
  origin = {}
  for name in names:
    for number in range(rng.randint(4, 14)):
      key = f"{name}/{rng.randint(0, 10**6)}_{number}"
      image = picture(numbers)
      save(image, tmp_path / f"{key}.png")
      origin[f"{key}.png"] = key
      for copy in range(rng.choice([0, 0, 0, 1, 2])):
        folder = name if rng.random() < 0.8 else rng.choice(names)
        again = f"{folder}/copy {len(origin)} {copy}.jpg"
        smaller = image.resize((72, 60)) if rng.random() < 0.5 else image
        save(smaller, tmp_path / again, quality=rng.choice([60, 80, 95]))
        origin[again] = key
  examples = load(f"images:{tmp_path}", verify=None)
  config = Config(split_seed=trial)
  made = splits.make(examples, config)
  own = np.array([origin[id] for id in examples.ids])
  assert_apart(made, own)
  held = collections.defaultdict(set)
  for key, label in zip(own, examples.labels):
    held[key].add(label)
  single = collections.Counter(next(iter(labels)) for labels in held.values() if len(labels) == 1)
  for split in SPLITS:
    assert set(examples.labels[getattr(made, split)]) >= {name for name in names if single[name] >= 3}
  _, moved = shuffled(examples, trial)
  again = splits.make(moved, config)
  assert all(ids(again, split) == ids(made, split) for split in SPLITS)


def test_texts_that_differ_in_writing_stay_together():
  rows = plain(30) + [("A 1.", "a"), ("«a  1»", "b"), ("B 2!", "b")]
  for seed in range(20):
    made = splits.make(examples_of(rows), Config(split_seed=seed))
    assert_apart(made, [normalized(text) for text, *_ in rows])
  assert any("nearly repeat an earlier one: 3;" in note for note in made.notes)


def test_without_near_duplicates_the_draw_is_by_content_alone():
  rows = plain(20) + [("a 1", "a"), ("b 2", "c")]
  examples = examples_of(rows)
  apart = Fingerprints(duplicates.numbered(examples.hashes), {"text": TextFingerprints(list(examples.hashes))})
  for seed in range(5):
    config = Config(split_seed=seed)
    by_content, by_all = splits.make(examples, config, apart), splits.make(examples, config)
    assert by_content.manifest()["splits"] == by_all.manifest()["splits"]


def test_what_nearly_equals_a_given_test_text_is_not_drawn():
  rows = plain(20, split="train") + [("A 0!", "a", "test"), ("B 0!", "b", "test")]
  for seed in range(20):
    made = splits.make(examples_of(rows), Config(split_seed=seed))
    validation = {normalized(made.examples.inputs.array()[i]) for i in made.validation}
    assert not validation & {"a 0", "b 0"}
    assert any(
      note.startswith("test texts that nearly equal one of train: 2, e.g. row:60 = row:0") for note in made.notes
    )


def test_normalised_texts():
  assert normalized("Don’t  PANIC — it's 5 o'clock!") == "dont panic its 5 oclock"
  assert normalized("ｆｕｌｌ Ｗｉｄｔｈ") == "full width"
  assert normalized(":-)") == ":-)" and normalized("ok 👍") != normalized("ok 👎")
  assert normalized("किताब") != normalized("कताब")


def test_images_of_one_scene_and_others():
  rng = np.random.default_rng(0)

  def facts(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG"} | options))
    return image_fingerprints.image_facts(buffer.getvalue())

  image, other = picture(rng), picture(rng)
  small = facts(image.resize((48, 40)), format="JPEG", quality=70)
  grey, deep = facts(image.convert("L")), facts(PIL.Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257))
  for near in (small, grey, deep):
    assert (near.hash ^ facts(image).hash).bit_count() <= image_fingerprints.MAX_DISTANCE
  assert (facts(other).hash ^ facts(image).hash).bit_count() > image_fingerprints.MAX_DISTANCE
  assert (deep.mode, grey.mode, small.format) == ("I;16", "L", "JPEG")
  assert facts(image.resize((31, 40))).hash is None
  assert facts(PIL.Image.new("RGB", (64, 64), "red")).hash is None
  assert image_fingerprints.image_facts(b"no image") is None


@pytest.mark.parametrize(
  "kind, count, value, expected",
  [
    (3, 1, struct.pack("<HH", 6, 0), 6),
    (3, 2, struct.pack("<HH", 6, 1), 6),
    (3, 1, struct.pack("<HH", 9, 0), 1),
    (2, 2, b"6\0\0\0", 1),
    (7, 2, b"6\0\0\0", 1),
    (5, 1, struct.pack("<I", 26), 1),
    (3, 1, b"", 1),
  ],
)
def test_an_orientation_of_another_kind_is_none(kind, count, value, expected):
  """Pillow returns texts, bytes and fractions as they are, which JSON cannot hold, and warns of what is cut off."""
  entry = struct.pack("<HHI", 0x112, kind, count) + value
  exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + (struct.pack("<III", 0, 6, 1) if value else b"")
  buffer = io.BytesIO()
  picture(np.random.default_rng(0)).save(buffer, "JPEG", exif=exif)
  facts = image_fingerprints.image_facts(buffer.getvalue())
  assert facts.orientation == expected and json.loads(json.dumps(facts.orientation)) == expected


def test_pillow_warns_of_nothing(tmp_path):
  """A transparent palette and cut EXIF data: the lines of a library name no file."""
  image = picture(np.random.default_rng(0)).quantize(16)
  save(image, tmp_path / "a.png", transparency=bytes(range(16)))
  save(image.convert("RGB"), tmp_path / "b.jpg", exif=b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x112, 3, 1))
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    image_fingerprints.ignore_warnings()
    modes = [image_fingerprints.image_facts((tmp_path / name).read_bytes()).mode for name in ("a.png", "b.jpg")]
  assert (modes, told) == (["P", "RGB"], [])


def test_close_pairs_are_those_of_a_comparison_of_all():
  rng = np.random.default_rng(0)
  hashes = rng.integers(0, 2**63, 600, dtype=np.uint64)
  for flips in range(1, 9):
    near = hashes[: 20 * flips].copy()
    for _ in range(flips):
      near ^= np.uint64(1) << rng.integers(0, 63, len(near), dtype=np.uint64)
    hashes = np.concatenate([hashes, near])
  hashes[:50] = hashes[0]
  apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
  for distance in (0, 3, 6, 7):
    expected = np.argwhere(np.triu(apart <= distance, 1))
    assert np.array_equal(duplicates.close_pairs(hashes, distance), expected)


def test_groups_join_through_chains():
  assert list(duplicates.joined(np.array([0, 0, 1, 2, 3]), np.array([5, 6, 6, 7, 7]))) == [0, 0, 0, 1, 1]
  assert duplicates.shared(np.array([4, 5, 5, 4]), [3, 1], [0, 2]) == [(3, 0), (1, 2)]


# Leaks between given splits


def test_leaks_are_told_with_examples_or_refused():
  rows = plain(20, split="train") + plain(4, split="validation", prefix="v ")
  rows += [(f"a {number}", "a", "test") for number in range(7)] + [("B 3?", "b", "test"), ("fresh", "c", "test")]
  notes = splits.make(examples_of(rows), Config()).notes
  shown = ", ".join(f"row:{72 + number} = row:{number}" for number in range(5))
  assert f"test texts that are also in train: 7, e.g. {shown}; given splits stay as they are" in notes
  assert "test texts that nearly equal one of train: 1, e.g. row:79 = row:23; given splits stay as they are" in notes
  with pytest.raises(UserError, match="--on_leak=fail: test texts that are also in train: 7, e.g. .*--on_leak=report"):
    splits.make(examples_of(rows), Config(on_leak="fail"))
  clean = [row for row in rows if row[2] != "test" or row[0] == "fresh"]
  assert len(splits.make(examples_of(clean), Config(on_leak="fail")).test) == 1


def test_drawn_splits_are_never_a_leak():
  drawn = splits.make(examples_of(plain(20) + [("A 1!", "a"), ("a 1", "b")]), Config(on_leak="fail"))
  assert len(drawn.test) and len(drawn.validation)
  assert not any("given splits" in note for note in drawn.notes)


# Groups


def grouped(rows, groups, **flags):
  examples = examples_of(rows)
  return splits.make(
    splits.dataclasses.replace(examples, groups=strings(groups)), Config(group_column="patient", **flags)
  )


@pytest.mark.parametrize("trial", range(25))
def test_random_groups_with_copies_never_leak(trial):
  rng = random.Random(trial)
  rows, groups = [], []
  labels = ["a", "b", "c", "rare"][: rng.randint(2, 4)]
  for group in range(rng.randint(40, 80)):
    own = rng.sample([label for label in labels if label != "rare" or group % 7 == 0], k=min(2, len(labels) - 1))
    for _ in range(rng.randint(1, 8)):
      rows.append((f"text {len(rows)} of {group}", rng.choice(own)))
      groups.append(f"patient {group}")
  for _ in range(rng.randint(0, 3)):
    rows.append((rng.choice(rows)[0].upper() + "!", rng.choice(labels)))
    groups.append(rng.choice(groups))
  made = grouped(rows, groups, split_seed=trial)
  assert_apart(made, groups)
  assert_apart(made, [normalized(text) for text, _ in rows])
  units = duplicates.joined(made.fingerprints.near, duplicates.numbered(groups))
  holders = {label: len(set(units[made.examples.labels == label])) for label in labels}
  for split in SPLITS:
    assert set(made.examples.labels[getattr(made, split)]) >= {label for label in labels if holders[label] >= 3}
  assert abs(len(made.test) - 0.2 * len(rows)) <= 12 and abs(len(made.validation) - 0.08 * len(rows)) <= 12
  order, moved = shuffled(made.examples, trial)
  again = splits.make(moved, Config(group_column="patient", split_seed=trial))
  assert all(ids(again, split) == ids(made, split) for split in SPLITS)


def test_groups_keep_the_classes_even():
  rng = random.Random(0)
  rows = [(f"text {number}", "sick" if number % 10 == 0 else "well") for number in range(2000)]
  made = grouped(rows, [f"p{rng.randint(0, 150)}" for _ in rows])
  for split, share in (("train", 0.72), ("validation", 0.08), ("test", 0.2)):
    counts = made.manifest()["counts"][split]
    assert abs(counts["sick"] - 200 * share) <= 3 and abs(counts["well"] - 1800 * share) <= 20
  other = grouped(rows, list(made.examples.groups), split_seed=1)
  assert ids(other, "test") != ids(made, "test")


def test_several_labels_an_example_are_spread_evenly():
  rng = np.random.default_rng(0)
  counts = (rng.random([3000, 8]) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.004]).astype(int)
  classes = np.fromiter((tuple(f"class {column}" for column in np.flatnonzero(row)) for row in counts), object)
  names = strings([f"{number}" for number in range(3000)])
  pool = sampling.Pool(
    np.arange(3000), np.arange(3000), names, classes, frozenset(), {"test": 0.2, "validation": 0.1}, seed=0
  )
  sampled, _ = sampling.by_group(pool)
  for split, share in (("test", 0.2), ("validation", 0.08)):
    got = counts[sampled[split]].sum(axis=0)
    assert np.all(np.abs(got - share * counts.sum(axis=0)) <= 2 + 0.05 * got), (split, got)
    assert np.all(got >= 1)


def test_a_thousand_classes_are_spread_in_seconds():
  """Every step over a class read all classes of all examples: 10,000 examples of 600 classes took 84 s."""
  rng, number = np.random.default_rng(0), 6000
  classes = strings(tuple(sorted({f"class {k}" for k in rng.zipf(1.3, 4) % 1000})) for _ in range(number))
  names = strings(f"{index}" for index in range(number))
  fractions = {"test": 0.2, "validation": 0.1}
  pool = sampling.Pool(np.arange(number), np.arange(number), names, classes, frozenset(), fractions, seed=0)
  start = time.process_time()
  sampled, _ = sampling.by_group(pool)
  assert time.process_time() - start < 20
  # More than 1,200 and 480: each split has each class, if train keeps it.
  assert 1000 < len(sampled["test"]) < 1500 and 400 < len(sampled["validation"]) < 1000
  rest = np.setdiff1d(pool.indices, np.concatenate([*sampled.values()]))
  assert pool.classes_of(rest) == pool.classes_of(pool.indices)


def test_a_group_of_a_given_split_is_not_drawn_and_is_told():
  rows = plain(20, split="train") + plain(2, split="test", prefix="t ")
  groups = [f"g{number // 2}" for number in range(60)] + ["g0", "x", "g0", "y", "z", "w"]
  for seed in range(10):
    made = grouped(rows, groups, split_seed=seed)
    assert not set(made.validation) & {0, 1}
    assert any(
      note.startswith("test examples whose group is also in train: 2, e.g. row:60 = row:0") for note in made.notes
    )
  with pytest.raises(UserError, match="whose group is also in train"):
    grouped(rows, groups, on_leak="fail")


def test_groups_that_hang_together_are_refused():
  with pytest.raises(UserError, match="--group_column=patient: one group, .* holds 40 of 60 training examples"):
    grouped(plain(20), ["one"] * 40 + [f"g{number}" for number in range(20)])


def test_too_few_groups_are_told():
  with pytest.raises(UserError, match="--group_column=patient has 2 groups of different contents .*: 3 or more are"):
    grouped(plain(20), [f"g{number % 2}" for number in range(60)])


# Times


def timed(rows, times, **flags):
  examples = examples_of(rows)
  examples = splits.dataclasses.replace(examples, times=strings(times))
  return splits.make(examples, Config(time_column="date", **flags))


def test_the_latest_are_test_and_the_next_latest_validation():
  rows = plain(50, labels=("a", "b"))
  days = [f"2024-{1 + number % 12:02}-{1 + number % 28:02}" for number in range(100)]
  made = timed(rows, days)
  train, validation, test = sets(made, np.array(days))
  assert max(train) < min(validation) and max(validation) < min(test)
  assert 15 <= len(made.test) <= 25 and 4 <= len(made.validation) <= 12
  assert any(
    note.startswith(f"test: the latest {len(made.test)} of 100 examples by --time_column=date, from 2024-1")
    for note in made.notes
  )
  order, moved = shuffled(made.examples, 0)
  again = splits.make(moved, Config(time_column="date"))
  assert all(ids(again, split) == ids(made, split) for split in SPLITS)


def test_a_copy_goes_with_the_latest_of_its_kind():
  rows = plain(20, labels=("a", "b")) + [("A 0!", "a")]
  made = timed(rows, [str(number) for number in range(41)])
  assert {0, 40} <= set(made.test)
  assert max(made.train) < min(set(made.validation) | (set(made.test) - {0}))


def test_times_are_numbers_or_iso_dates():
  ids_ = strings(["r:1", "r:2"])
  assert list(sampling.instants(strings(["1.5", "-2e3"]), ids_, "--time_column=t")) == [1.5, -2000]
  assert list(sampling.instants(strings(["1970-01-02", "1970-01-01T02:00:00+01:00"]), ids_, "--time_column=t")) == [
    86400,
    3600,
  ]
  for bad, message in [
    (["3", "2024-01-01"], "--time_column=t: r:2 has '2024-01-01', which is not a number, as the first one is"),
    (["2024-01-01", "May"], "r:2 has 'May', which is not an ISO date such as 2024-05-31"),
    (["nan", "1"], "r:1 has 'nan', which is not an ISO date"),
  ]:
    with pytest.raises(UserError, match=message):
      sampling.instants(strings(bad), ids_, "--time_column=t")


def test_too_few_times_are_refused():
  with pytest.raises(UserError, match="--time_column=date has 2 different times .* 3 or more are needed"):
    timed(plain(20), ["2024-01-01", "2024-01-02"] * 30)


# From a table


def test_columns_of_a_table(tmp_path):
  lines = [f"text {number},{'ab'[number % 2]},p{number // 4},{2000 + number}" for number in range(80)]
  path = write(tmp_path / "t.csv", "\n".join(["text,label,who,year", *lines]))
  examples = load(f"table:{path}", group_column="who", time_column="year")
  assert list(examples.groups[:5]) == ["p0"] * 4 + ["p1"] and list(examples.times[:2]) == ["2000", "2001"]
  assert list(examples.take(np.array([4])).groups) == ["p1"]
  config = Config(group_column="who", time_column="year")
  made = splits.make(examples, config)
  assert_apart(made, examples.groups)
  assert made.manifest()["group_column"] == "who" and made.settings["time_column"] == "year"
  assert load(f"table:{path}").groups is None


def test_an_empty_group_is_a_bad_example(tmp_path):
  path = write(tmp_path / "t.csv", "text,label,who\nx,a,p\ny,b,\n")
  with pytest.raises(UserError, match=r"t.csv:3: it has no who \(--group_column\)"):
    load(f"table:{path}", group_column="who")
  assert list(load(f"table:{path}", group_column="who", on_bad_example="skip").groups) == ["p"]
  with pytest.raises(UserError, match=r"no column 'whom' \(--group_column\); .* did you mean who\?"):
    load(f"table:{path}", group_column="whom")


def test_columns_of_what_is_no_table_are_refused(tmp_path):
  with pytest.raises(UserError, match="--group_column=who names a column of a table, but --dataset=images:x is none"):
    load("images:x", group_column="who")
  path = write(tmp_path / "t.csv", "text,label,day\nx,a,1\ny,b,2\n")
  with pytest.raises(UserError, match="--time_column=day .* but --test_dataset=digits is none"):
    load(f"table:{path}", time_column="day", test_dataset="digits")


def test_extra_data_sets_bring_their_groups(tmp_path):
  path = write(tmp_path / "t.csv", "text,label,who\nx,a,p\ny,b,q\n")
  other = write(tmp_path / "o.csv", "text,label,who\nz,a,r\n")
  examples = load(f"table:{path}", group_column="who", test_dataset=f"table:{other}")
  assert list(examples.groups) == ["p", "q", "r"]
