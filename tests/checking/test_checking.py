"""`check`: every planted fault is found and named, nothing else, and nothing in a clean set."""

import collections
import csv
import io
import json
import random
import re
import time
import types

import numpy as np
import PIL.Image
import pytest
import tiny_data
import tiny_modules

from tl_app import data, files
from tl_app.assets import Assets
from tl_app.checking import images, noise, summary, texts
from tl_app.checking.findings import KINDS, SEVERITIES, find, in_order
from tl_app.commands import check
from tl_app.config import Config
from tl_app.data.examples import strings
from tl_app.data.splitting import splits
from tl_app.data.splitting.fingerprints import fingerprint
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.errors import UserError
from tl_app.preprocessing import long_text

WORDS = re.findall(
  r"\w+",
  "river stone candle meadow harbour winter copper forest letter garden window bridge market summer doctor pencil "
  "lantern orchard blanket thunder whistle cabinet journey mirror saddle ticket velvet basket engine pillow",
)


def text_rows(per_class=30, labels=("apples", "pears"), seed=0, split=""):
  """Returns different texts of five words, none of which equals another but for order of words."""
  rng, seen, rows = random.Random(seed), set(), []
  while len(rows) < per_class * len(labels):
    words = tuple(rng.sample(WORDS, 6))
    if words not in seen:
      seen.add(words)
      rows.append((" ".join(words), labels[len(rows) % len(labels)], split))
  return rows


def check_rows(tmp_path, rows, **flags):
  """Writes rows (text, label[, split]) as tables and returns {kind: Finding} of a check."""
  by_split = collections.defaultdict(list)
  for text, label, split in rows:
    by_split[split or "all"].append({"text": text, "label": label})
  (tmp_path / "t").mkdir(exist_ok=True)
  for split, records in by_split.items():
    (tmp_path / "t" / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  return kinds_of(f"table:{tmp_path / 't'}", **flags)


def kinds_of(dataset, **flags):
  result, found = check.check(Config(dataset=dataset, **flags))
  json.dumps(result, allow_nan=False)
  assert [finding["kind"] for finding in result["findings"]] == [finding.kind for finding in found]
  assert all("\n" not in line for line in summary.lines(result, found))
  return {finding.kind: finding for finding in found}


def picture(seed, size=(96, 80), mode="RGB"):
  """Returns an image of a few soft shapes, unlike that of any other seed."""
  rng = np.random.default_rng(seed)
  coarse = PIL.Image.fromarray(rng.integers(0, 256, [6, 6, 3], dtype=np.uint8))
  return coarse.resize(size, PIL.Image.Resampling.BICUBIC).convert(mode)


def encoded(image, format="PNG", **options):
  buffer = io.BytesIO()
  image.save(buffer, format, **options)
  return buffer.getvalue()


def write_pictures(root, per_class=8):
  for label in ("cups", "forks"):
    for number in range(per_class):
      write_file(root, f"{label}/{number}.png", encoded(picture(hash_of(label, number))))
  return root


def hash_of(label, number):
  return {"cups": 1000, "forks": 2000}[label] + number


def write_file(root, name, content):
  (root / name).parent.mkdir(parents=True, exist_ok=True)
  (root / name).write_bytes(content)


def first(root):
  return (root / "cups/0.png").read_bytes()


# Each plants one kind of fault: kind -> rows that are added to a clean table of `apples` and `pears`.
BAD_TEXTS = {
  "empty_text": [("   ", "apples", "")],
  "no_label": [("velvet forest", None, "")],
  "duplicates": [("{0}", "apples", "")],
  "near_duplicates": [("  {0}!! ", "apples", "")],
  "conflicting_labels": [("{0}", "pears", "")],
  "near_conflicting_labels": [("«{0}»", "pears", "")],
  "same_but_numbers": [("ring 555 before 8", "apples", ""), ("ring 1234 before 9", "apples", "")],
  "bracketed_labels": [(f"ten {word} sing", "['pears'", "") for word in WORDS],
  "similar_labels": [(f"seven {word} stand", "Apples", "") for word in WORDS],
  "placeholder_labels": [(f"eight {word} fall", "n/a", "") for word in WORDS],
  "small_classes": [("a single plum", "plums", ""), ("another plum", "plums", "")],
  "class_imbalance": [(f"{word} and {other}", "pears", "") for word in WORDS[:14] for other in WORDS[14:28]],
  "replacement_characters": [("caf\ufffd on the corner", "pears", "")],
  "mojibake": [("CafÃ© dâ€™Or on the corner", "pears", "")],
  "control_characters": [("a bell\x07 rings", "pears", "")],
  "html": [("the <b>bold</b> one &amp; another", "pears", "")],
  "no_words": [("?! ...", "pears", "")],
  "label_in_text": [(f"the best plums are {word}", "plums", "") for word in WORDS],
}
# What a fault brings along.
ALONG = {
  "conflicting_labels": {"duplicates"},
  "near_conflicting_labels": {"near_duplicates"},
  "small_classes": {"class_imbalance"},
}


def test_a_clean_table_has_no_fault(tmp_path):
  assert check_rows(tmp_path, text_rows()) == {}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_every_fault_of_texts_is_found(tmp_path, kind):
  rows = text_rows()
  planted = [(text.format(rows[0][0]), label, split) for text, label, split in BAD_TEXTS[kind]]
  found = check_rows(tmp_path, rows + planted)
  assert set(found) == {kind} | ALONG.get(kind, set())
  shown = found[kind]
  assert shown.count >= 1 and shown.severity == ("serious" if KINDS[kind].grows else KINDS[kind].severity)
  if kind not in (
    "bracketed_labels",
    "similar_labels",
    "placeholder_labels",
    "small_classes",
    "class_imbalance",
    "label_in_text",
  ):
    assert "all.jsonl:61" in " ".join(shown.examples)


def test_a_given_split_without_any_class_is_no_fault(tmp_path):
  rows = [(text, ["apples", "pears"], "train") for text, _, _ in text_rows()]
  rows += [(text, [], "test") for text, _, _ in text_rows(20, seed=1)]
  assert "split_imbalance" not in check_rows(tmp_path, rows)


def test_what_a_sign_or_a_number_tells_apart_is_no_second_spelling(tmp_path):
  apart = text_rows(0) + [
    (f"{word} number {i}", label, "")
    for i, label in enumerate(("C", "C#", "C++", "A", "A-", "v1.0", "v10", "-1", "1", "10", "10-1"))
    for word in WORDS
  ]
  assert "similar_labels" not in check_rows(make_parent(tmp_path / "apart"), apart)
  alike = [(f"{word} {i}", label, "") for i, label in enumerate(("1", "1.0", "New-York", "new york")) for word in WORDS]
  found = check_rows(make_parent(tmp_path / "alike"), alike)["similar_labels"]
  number = len(WORDS)
  assert found.count == 2 and found.detail == f"in {2 * number} of {4 * number} examples"
  assert found.examples == [
    f"'1.0' ({number}: all.jsonl:{number + 1}, all.jsonl:{number + 2}, all.jsonl:{number + 3}, ..) = '1' ({number})",
    f"'new york' ({number}: all.jsonl:{3 * number + 1}, all.jsonl:{3 * number + 2}, all.jsonl:{3 * number + 3}, ..) "
    f"= 'New-York' ({number})",
  ]


def test_a_fault_is_of_its_kind_where_its_column_or_word_is_named(tmp_path):
  pairs = "".join(f"{text},more,{label}\n" for text, label, _ in text_rows())
  (tmp_path / "pairs.csv").write_text(f"text,other,label\n{pairs}velvet,,apples\n")
  found = kinds_of(f"table:{tmp_path / 'pairs.csv'}", text_pair_column="other")
  assert found["empty_text"].examples == ["pairs.csv:62 (--text_pair_column: the text is empty)"]
  words = "".join(f"{number},John,B-PER\n{number},saw {number},O\n" for number in range(30))
  (tmp_path / "words.csv").write_text(f"sentence,text,label\n{words}31,John,B-PER\n31,saw,\n")
  found = kinds_of(f"table:{tmp_path / 'words.csv'}", sentence_column="sentence")
  assert found["no_label"].examples == ["words.csv:62 (words.csv:63: it has no label)"]


def test_a_label_one_typing_error_from_a_large_class_is_a_second_spelling(tmp_path):
  rows = text_rows(40, ("refund", "typical", "card_1", "tea", "arrival", "type a"))
  rare = ["Refund", "refnud", "refunds", "refumd", "atypical", "card_2", "tee", "arival", "rival", "type b"]
  found = check_rows(tmp_path, rows + [(f"nine {name} wait", name, "") for name in rare])["similar_labels"]
  lines = {"Refund": 241, "refnud": 242, "refumd": 244, "refunds": 243}
  expected = [f"'{name}' (1: all.jsonl:{line}) = 'refund' (40)" for name, line in lines.items()]
  assert found.examples == [*expected, "'arival' (1: all.jsonl:248) = 'arrival' (40)"] and found.count == 5


def test_imbalance_that_comes_from_spellings_is_no_advice_about_metrics(tmp_path):
  rows = text_rows(40, ("refund", "arrival")) + [("nine candles wait", "refnud", "")]
  found = check_rows(make_parent(tmp_path / "spellings"), rows)["class_imbalance"]
  assert "'refnud' 1: 1 to " in found.detail and "correct the labels of similar_labels" in found.line()
  assert "similar_labels" in found.as_json()["advice"]
  rows += [(f"eight {word} wait", "chair", "") for word in WORDS[:4]]
  found = check_rows(make_parent(tmp_path / "rare"), rows)["class_imbalance"]
  assert found.line().endswith("judge by macro F1, not by accuracy")


def test_the_advice_about_long_texts_holds_their_tokens():
  class Fixed:
    limit, max_length, max_windows, can_pack = 512, 64, 1, True

  class Whole(Fixed):
    can_pack = False

  class InWindows(Fixed):
    max_windows = 2

  assert texts._longer(Fixed, 73) == "--max_length=80" and texts._longer(Fixed, 505) == "--max_length=512"
  assert texts._longer(Fixed, 700) == "--long_text=windows --max_length=128 --max_windows=6"
  assert texts._longer(Whole, 700) == "" and texts._longer(InWindows, 700) == "--max_windows=12"
  for length, windows in ((128, 6), (64, 12)):
    InWindows.max_length, InWindows.max_windows = length, windows
    assert long_text.tokens_read(InWindows, np.array([700])) == 700
    InWindows.max_windows -= 1
    assert long_text.tokens_read(InWindows, np.array([700])) < 700


def test_two_large_classes_that_differ_by_one_letter_are_two(tmp_path):
  assert "similar_labels" not in check_rows(
    tmp_path, text_rows(30, ("inline", "online", "form", "farm", "lobe", "love"))
  )


def test_a_name_with_brackets_inside_is_no_part_of_a_list(tmp_path):
  names = ("mail [new]", "mail (old)", "it's", '15"', "[Serious]")
  assert "bracketed_labels" not in check_rows(make_parent(tmp_path / "names"), text_rows(30, names))
  found = check_rows(make_parent(tmp_path / "lists"), text_rows(30, ("Serious", "[Serious, News]", "b'News'")))
  assert found["bracketed_labels"].examples == ["'[Serious, News]' (30)", "\"b'News'\" (30)"]


def test_faults_of_given_splits_are_found(tmp_path):
  train = text_rows(120, split="train")
  rows = train + text_rows(30, seed=1, split="validation") + text_rows(30, seed=2, split="test")
  assert check_rows(make_parent(tmp_path / "clean"), rows) == {}
  leaking = rows + [(train[0][0], train[0][1], "test"), (train[1][0].upper() + ".", train[1][1], "validation")]
  found = check_rows(make_parent(tmp_path / "leak"), leaking)
  assert set(found) == {"leak", "near_leak", "duplicates", "near_duplicates"}
  assert (found["leak"].count, found["leak"].total, found["leak"].severity) == (1, 61, "serious")
  assert found["leak"].examples == ["test.jsonl:61 = train.jsonl:1"]
  assert found["near_leak"].examples == ["validation.jsonl:61 = train.jsonl:2"]
  unseen = check_rows(make_parent(tmp_path / "unseen"), [*rows, ("a plum", "plums", "test")])
  assert set(unseen) == {"unseen_labels"} and unseen["unseen_labels"].examples == ["'plums' (1 in test)"]
  skewed = rows + [row for row in text_rows(120, seed=3, split="test") if row[1] == "apples"]
  shifted = check_rows(make_parent(tmp_path / "skewed"), skewed)
  assert set(shifted) == {"split_imbalance"} and "Cramer's V" in shifted["split_imbalance"].detail


def make_parent(path):
  path.mkdir()
  return path


def test_pairs_with_a_text_of_train_are_found(tmp_path):
  texts = [text for text, _, _ in text_rows(60)]
  for split, start, end in (("train", 0, 40), ("validation", 40, 60), ("test", 80, 100)):
    rows = [{"text": texts[i], "other": texts[i + 1], "label": "ab"[i // 2 % 2]} for i in range(start, end, 2)]
    if split == "test":
      # A text of train: in its own column, in the other one, and a whole pair, which is a leak.
      rows += [{"text": texts[0].upper(), "other": "an orange plum", "label": "a"}]
      rows += [{"text": "an orange pear", "other": texts[2], "label": "b"}]
      rows += [{"text": texts[4], "other": texts[5], "label": "a"}]
    (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
  found = kinds_of(f"table:{tmp_path}", text_pair_column="other")
  assert set(found) == {"leak", "duplicates", "shared_texts"}
  shared = found["shared_texts"]
  assert (shared.severity, shared.count, shared.total) == ("warning", 2, 13)
  assert shared.detail == "test: --text_column 7.7%, --text_pair_column 7.7%"
  assert shared.examples == ["test.jsonl:11 = train.jsonl:1", "test.jsonl:12 = train.jsonl:2"]


def test_groups_in_two_given_splits_are_found(tmp_path):
  for split, groups in {"train": "abcd", "validation": "efef", "test": "ghdg"}.items():
    rows = text_rows(2, seed=ord(groups[0]))
    lines = [f"{text},{label},{group}" for (text, label, _), group in zip(rows, groups)]
    (tmp_path / f"{split}.csv").write_text("\n".join(["text,label,who", *lines]))
  found = kinds_of(f"table:{tmp_path}", group_column="who")
  assert set(found) == {"group_leak"} and found["group_leak"].examples == ["test.csv:4 = train.csv:5"]


def test_one_class_is_a_fault_and_no_refusal(tmp_path):
  found = check_rows(tmp_path, text_rows(labels=("apples",)))
  assert set(found) == {"one_class"} and found["one_class"].severity == "serious"


def test_amounts_that_are_all_equal_are_told_as_such(tmp_path):
  found = check_rows(tmp_path, text_rows(labels=("2",)), task="regression")
  assert set(found) == {"unsplittable"} and "all labels of train are 2" in found["unsplittable"].detail


def test_an_invisible_character_makes_another_spelling(tmp_path):
  found = check_rows(tmp_path, text_rows(labels=("apples", "apples\u200b", "pears")))
  assert found["similar_labels"].count == 1


def test_splits_that_cannot_be_drawn_are_a_fault(tmp_path):
  found = check_rows(tmp_path, text_rows(2))
  assert set(found) == {"unsplittable", "small_classes"} and "three different examples" in found["unsplittable"].detail


# Other tasks than one class an example


def test_orders_of_several_classes_are_no_conflict(tmp_path):
  texts = [text for text, _, _ in text_rows(40)]
  rows = [(text, ("sweet,red", "sweet", "red", "sour,red")[i % 4], "") for i, text in enumerate(texts)]
  same, other = (texts[0], "red,sweet", ""), (texts[1], "sweet,sour", "")
  assert set(check_rows(tmp_path, [*rows, same], task="multi_label")) == {"duplicates"}
  found = check_rows(tmp_path, [*rows, same, other], task="multi_label")
  assert set(found) == {"duplicates", "conflicting_labels"} and found["conflicting_labels"].count == 1
  result, _ = check.check(Config(dataset=f"table:{tmp_path / 't'}"))
  assert (result["task"], result["num_classes"]) == ("multi_label", 3)
  assert result["not_checked"]["label_noise"] == "--task=multi_label has no check of it"


def test_amounts_are_not_judged_as_classes(tmp_path):
  rows = [(text, str(1.5**i), "") for i, (text, _, _) in enumerate(text_rows(30))]
  assert check_rows(make_parent(tmp_path / "clean"), rows) == {}
  found = check_rows(make_parent(tmp_path / "torn"), [*rows, (rows[0][0], "9999.5", "")])
  assert set(found) == {"duplicates", "conflicting_labels"}
  # Later amounts may be out of the range of all earlier ones.
  given = [(text, amount, "train" if i < 40 else "test") for i, (text, amount, _) in enumerate(rows)]
  assert "unseen_labels" not in check_rows(make_parent(tmp_path / "given"), given)


@pytest.mark.slow
def test_faults_in_both_texts_of_a_pair_are_found(tmp_path, modules):
  texts = [text for text, _, _ in text_rows(60)]
  pairs = [(one, two, ("no", "yes")[i % 2]) for i, (one, two) in enumerate(zip(texts[:60], texts[60:]))]
  pairs += [(pairs[0][1], pairs[0][0], "no"), (pairs[2][0].upper(), pairs[2][1] + "!", "no")]
  pairs += [(pairs[3][0], "one <b>bold</b> word", "no"), (pairs[5][0], "好电影", "yes")]
  lines = [json.dumps({"text": one, "other": two, "label": label}) for one, two, label in pairs]
  (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
  flags = {
    "text_pair_column": "other",
    "backbone": f"{modules}/bert",
    "pair_encoding": "bi_encoder",
    "feature_cache": "off",
  }
  found = kinds_of(f"table:{tmp_path / 'pairs.jsonl'}", **flags, max_length=8)
  assert found["near_duplicates"].examples == ["pairs.jsonl:62 = pairs.jsonl:3"]
  assert found["html"].examples == ["pairs.jsonl:63"]
  assert "LATIN in" in found["unknown_tokens"].detail and "duplicates" not in found
  assert "long_texts" in kinds_of(f"table:{tmp_path / 'pairs.jsonl'}", **flags, max_length=4)


# Images

BAD_IMAGES = {
  "unreadable": lambda root: write_file(root, "cups/bad.png", first(root)[:-40]),
  "empty_file": lambda root: write_file(root, "cups/bad.png", b""),
  "empty_class": lambda root: (root / "spoons").mkdir(),
  "wrong_suffix": lambda root: write_file(root, "cups/bad.jpg", encoded(picture(1), "BMP")),
  "tiny_image": lambda root: write_file(root, "cups/bad.png", encoded(picture(1, (96, 20)).resize((40, 20)))),
  "extreme_aspect": lambda root: write_file(root, "cups/bad.png", encoded(picture(1, (400, 80)))),
  "blank_image": lambda root: write_file(root, "cups/bad.png", encoded(PIL.Image.new("RGB", (96, 80), "white"))),
  "rotated_image": lambda root: write_file(root, "cups/bad.jpg", encoded(picture(1), "JPEG", exif=_turned())),
  "grey_images": lambda root: write_file(root, "cups/bad.png", encoded(picture(1, mode="L"))),
  "cmyk_images": lambda root: write_file(root, "cups/bad.jpg", encoded(picture(1, mode="CMYK"), "JPEG")),
  "deep_images": lambda root: write_file(root, "cups/bad.png", encoded(_deep())),
  "alpha_images": lambda root: write_file(root, "cups/bad.png", encoded(picture(1, mode="RGBA"))),
  "animated_images": lambda root: write_file(
    root, "cups/bad.gif", encoded(picture(1), "GIF", save_all=True, append_images=[picture(2)])
  ),
  "duplicates": lambda root: write_file(root, "cups/bad.png", first(root)),
  "near_duplicates": lambda root: write_file(root, "cups/bad.jpg", encoded(_again(root), "JPEG", quality=60)),
  "conflicting_labels": lambda root: write_file(root, "forks/bad.png", first(root)),
  "near_conflicting_labels": lambda root: write_file(root, "forks/bad.jpg", encoded(_again(root), "JPEG", quality=60)),
  "shortcut": lambda root: [
    write_file(root, f"forks/{i}.png", encoded(picture(hash_of("forks", i), (90, 90)))) for i in range(8)
  ],
}
BESIDE = {
  **ALONG,
  "deep_images": {"grey_images"},
}


def _turned():
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  return exif


def _deep():
  return PIL.Image.fromarray(np.asarray(picture(1, mode="L"), np.uint16) * 257)


def _again(root):
  with PIL.Image.open(io.BytesIO(first(root))) as image:
    return image.convert("RGB").resize((72, 60))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_clean_images_have_no_fault(pictures):
  assert kinds_of(f"images:{pictures}") == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_every_fault_of_images_is_found(tmp_path, kind):
  BAD_IMAGES[kind](write_pictures(tmp_path))
  found = kinds_of(f"images:{tmp_path}")
  assert set(found) == {kind} | BESIDE.get(kind, set())
  assert found[kind].severity == ("serious" if KINDS[kind].grows else KINDS[kind].severity)
  if kind != "shortcut":
    assert "bad" in found[kind].examples[0] or found[kind].examples == ["spoons/"]


# With a backbone


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
  root = tmp_path_factory.mktemp("modules")
  tiny_modules.bert(root / "bert")
  tiny_modules.image(root / "image")
  return root


@pytest.mark.slow
def test_what_a_vocabulary_loses_is_found(tmp_path, modules):
  flags = {"backbone": f"{modules}/bert", "max_length": 16, "feature_cache": "off"}
  tiny_data.reviews(tmp_path / "plain.csv")
  plain = kinds_of(f"table:{tmp_path / 'plain.csv'}", **flags)
  assert not {"unknown_tokens", "long_texts"} & set(plain)
  with open(tmp_path / "plain.csv", encoding="utf-8") as file:
    lines = file.read().splitlines()
  more = ["好电影好电影好电影好电影,positive", f"{'the film is good ' * 20},positive"]
  (tmp_path / "more.csv").write_text("\n".join(lines + more), encoding="utf-8")
  found = kinds_of(f"table:{tmp_path / 'more.csv'}", **flags)
  assert {"unknown_tokens", "long_texts"} <= set(found)
  assert found["unknown_tokens"].examples == ["more.csv:82"] and "CJK in 1" in found["unknown_tokens"].detail
  assert found["long_texts"].examples == ["more.csv:83 (82 tokens)"] and "at 16 tokens" in found["long_texts"].detail
  assert "all texts have at most 82" in found["long_texts"].detail


@pytest.mark.slow
def test_wrong_labels_are_found_by_frozen_features(tmp_path, modules):
  root = tmp_path / "colours"
  tiny_data.colours(root, per_class=40)
  flags = {"backbone": f"{modules}/image", "image_size": 16, "feature_cache": "off"}
  assert "label_noise" not in kinds_of(f"images:{root}", **flags)
  (root / "red/007.png").rename(root / "blue/wrong.png")
  _, findings = check.check(Config(dataset=f"images:{root}", **flags), str(tmp_path / "fix.csv"))
  (found,) = [finding for finding in findings if finding.kind == "label_noise"]
  assert found.examples == ["blue/wrong.png (blue, rather red)"]
  with open(tmp_path / "fix.csv", newline="") as file:
    (row,) = csv.DictReader(file)
  assert (row["id"], row["label"], row["proposed_label"]) == ("blue/wrong.png", "blue", "red")
  assert row["image"] == str(root / "blue/wrong.png") and float(row["confidence"]) > 0.5 and row["decision"] == ""


def test_equal_contents_with_several_labels_are_proposed_without_a_backbone(tmp_path):
  rows = text_rows(30)
  rows += [(rows[0][0], "pears", "")] + [(rows[0][0], "apples", "")] * 2
  check_rows(tmp_path, rows)
  check.check(Config(dataset=f"table:{tmp_path / 't'}"), str(tmp_path / "fix.csv"))
  with open(tmp_path / "fix.csv", newline="") as file:
    found = list(csv.DictReader(file))
  assert [(row["label"], row["proposed_label"], row["reason"]) for row in found] == [
    ("pears", "apples", "label of 3 of 4 equal contents")
  ]


def test_labels_that_differ_in_writing_only_are_not_proposed(tmp_path):
  texts = [text for text, _, _ in text_rows(40)]
  rows = [(text, ("sweet,red", "sweet", "red", "sour,red")[i % 4], "") for i, text in enumerate(texts)]
  check_rows(tmp_path, [*rows, (texts[0], "red,sweet", ""), (texts[1], "sweet,sour", ""), (texts[1], "sour,sweet", "")])
  check.check(Config(dataset=f"table:{tmp_path / 't'}", task="multi_label"), str(tmp_path / "fix.csv"))
  with open(tmp_path / "fix.csv", newline="") as file:
    found = list(csv.DictReader(file))
  assert [(row["label"], row["proposed_label"], row["reason"]) for row in found] == [
    ("sweet", "sweet,sour", "label of 2 of 3 equal contents")
  ]


def test_the_shortcut_of_many_images_is_looked_for_in_seconds():
  """The classes of all images of one size were sorted for each of them: 40,000 images of 2,000 classes took minutes."""
  classes = strings((f"class {index % 2000}",) for index in range(40_000))
  facts = [types.SimpleNamespace(format="JPEG", mode="RGB", width=64, height=64)] * len(classes)
  start = time.process_time()
  assert not list(images._shortcut(types.SimpleNamespace(classes=classes), facts))
  assert time.process_time() - start < 12


def test_repeats_are_counted_among_what_could_repeat(tmp_path):
  rows = text_rows(30)
  found = check_rows(tmp_path, [*rows, *[rows[0]] * 40, (f"  {rows[1][0]}!! ", rows[1][1], "")])
  assert (found["duplicates"].count, found["duplicates"].total) == (40, 101)
  assert (found["near_duplicates"].count, found["near_duplicates"].total) == (1, 61)


def test_names_of_thousands_of_classes_are_looked_for_in_seconds():
  """Each name was looked for in every text: 20,000 texts of 500 classes took 66 s."""
  rng, number = np.random.default_rng(0), 20_000
  classes = strings((f"class {index % 1000}",) for index in range(number))
  found = [" ".join(rng.choice(WORDS, 8)) + (" class 7" if index % 1000 == 7 else "") for index in range(number)]
  subject = types.SimpleNamespace(
    examples=types.SimpleNamespace(classes=classes), fingerprints=types.SimpleNamespace(texts=found)
  )
  start = time.process_time()
  (finding,) = texts._label_in_text(subject)
  assert time.process_time() - start < 10
  assert (finding.count, finding.total, finding.examples) == (1, 1000, ["'class 7' (100%)"])


def test_out_of_fold_predictions_have_not_seen_the_group():
  rng = np.random.default_rng(0)
  features = np.repeat(rng.normal(size=[60, 400]), 2, axis=0).astype(np.float32)
  targets, groups = np.repeat(rng.integers(2, size=60), 2), np.repeat(np.arange(60), 2)
  probabilities = noise.out_of_fold(features, targets, groups)
  assert probabilities.shape == (120, 2) and np.allclose(probabilities.sum(axis=1), 1)
  assert np.mean(probabilities.argmax(axis=1) == targets) < 0.7
  assert np.mean(noise.out_of_fold(features, targets, np.arange(120)).argmax(axis=1) == targets) > 0.8


def test_small_classes_give_no_lines_of_a_library(recwarn):
  pytest.importorskip("cleanlab")
  targets = np.array([0] * 20 + [1] * 20 + [2])
  probabilities = np.eye(3)[targets] * 0.8 + 0.2 / 3
  probabilities[3] = [0.02, 0.96, 0.02]
  assert noise.issues(targets, probabilities)[0][:2] == (3, 1)
  # A test split may have one class only, or one example.
  assert noise.issues(np.zeros(4, int), probabilities[:4]) == []
  assert [str(warning.message) for warning in recwarn if "class" in str(warning.message)] == []


@pytest.mark.slow
def test_without_cleanlab_the_extra_is_named(tmp_path, modules, monkeypatch):
  monkeypatch.setattr(noise.importlib.util, "find_spec", lambda name: None)
  tiny_data.reviews(tmp_path / "plain.csv")
  config = Config(dataset=f"table:{tmp_path / 'plain.csv'}", backbone=f"{modules}/bert")
  assert check.check(config)[0]["not_checked"] == {"label_noise": "pip install 'tl_app[check]'"}


def test_a_backbone_of_the_other_modality_is_refused(pictures, modules):
  with pytest.raises(UserError, match="reads texts, but .* holds images"):
    check.check(Config(dataset=f"images:{pictures}", backbone=f"{modules}/bert"))


# The result


def test_severity_grows_with_the_share():
  assert [finding.severity for finding in find("leak", 9, 1000)] == ["warning"]
  assert [finding.severity for finding in find("leak", 10, 1000)] == ["serious"]
  assert list(find("leak", 0, 1000)) == []
  found = [*find("html", 1), *find("duplicates", 1), *find("unreadable", 1)]
  assert [finding.severity for finding in in_order(found)] == list(SEVERITIES)


def test_checks_that_did_not_run_are_listed(pictures):
  result, found = check.check(Config(dataset=f"images:{pictures}"))
  assert result["not_checked"] == {"label_noise": "pass --backbone"}
  assert list(summary.lines(result, found))[1] == "not checked: label_noise: pass --backbone"
  assert (result["num_examples"], result["serious"], result["findings"]) == (16, 0, [])


def test_every_kind_is_planted_somewhere():
  elsewhere = {"leak", "near_leak", "group_leak", "shared_texts", "unseen_labels", "split_imbalance"}
  elsewhere |= {"one_class", "unsplittable"}
  with_backbone = {"unknown_tokens", "long_texts", "label_noise"}
  assert set(BAD_TEXTS) | set(BAD_IMAGES) | elsewhere | with_backbone == set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("relative", "form", "expected"),
  [
    ("data/sms_spam/all.tsv", "table", {"duplicates": 414, "near_duplicates": 26}),
    ("data/banking77", "table", {"leak": 6, "near_leak": 20, "near_conflicting_labels": 2, "duplicates": 11}),
    ("data/trashnet", "images", {"conflicting_labels": 3, "duplicates": 3, "leak": 1}),
    ("data/tf_flowers/all", "images", {"near_duplicates": 1}),
  ],
)
def test_something_true_about_real_data(shared, relative, form, expected):
  found = kinds_of(f"{form}:{shared(relative)}")
  assert {kind: found[kind].count for kind in expected} == expected


def test_findings_are_written_as_json(tmp_path, pictures):
  result, _ = check.check(Config(dataset=f"images:{pictures}"))
  files.write_json(tmp_path / "o.json", result)
  assert files.read_json(tmp_path / "o.json") == result


def test_a_wrong_label_that_a_whole_group_shares_is_found():
  features = np.random.default_rng(0).normal(0, 1, (88, 64)).astype(np.float32)
  features[:, :48] += np.repeat([1, -1, 1], [40, 40, 8])[:, None]
  # What the group looks like, whatever its labels.
  features[80:, 48:] += 3
  labels = np.repeat(np.array(["a", "b", "b"], object), [40, 40, 8])
  each, groups = np.arange(88), np.append(np.arange(80), np.full(8, 80))
  assert noise.review(labels, features, each, np.full(88, "train"))[0] == []
  found, used, _ = noise.review(labels, features, groups, np.full(88, "train"))
  assert {proposal.index for proposal in found} == set(range(80, 88)) and used == 88
  assert {proposal.label for proposal in found} == {"a"}


def test_examples_of_a_group_or_with_equal_contents_belong_together(tmp_path):
  rows = [("good", "p"), ("good", "p"), ("bad", "n"), ("fine film", "p")]
  lines = ["text,label,group", *(f"{text},{label},{group}" for (text, label), group in zip(rows, "xyyz"))]
  (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
  for flags, count in (({}, 3), ({"group_column": "group"}, 2)):
    examples = data.load(Config(dataset=f"table:{tmp_path / 't.csv'}", **flags), Assets())
    assert len(set(splits.units(examples, fingerprint(examples, DecodedImageIndex(tmp_path))))) == count
