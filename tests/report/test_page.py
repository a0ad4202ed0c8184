"""The report: one page, offline, escaped, whatever the workdir holds."""

import base64
import configparser
import hashlib
import html.parser
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from tiny_runs import write_run

from tl_app import files
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.errors import UserError
from tl_app.report import page as page_lib
from tl_app.report import rendering
from tl_app.tasks import SINGLE_LABEL

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
  """Reads a page: tags and their attributes, text, ids; and refuses tags that do not close."""

  def __init__(self, path):
    super().__init__()
    self.source = path.read_text(encoding="utf-8")
    self.tags, self.open, self.words, self.scripts = [], [], [], []
    self.feed(self.source)
    self.text = " ".join(" ".join(self.words).split())
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, (tag, self.getpos())

  def handle_data(self, data):
    if "script" in self.open:
      self.scripts.append(data)
    elif "style" not in self.open:
      self.words.append(data)

  def attributes(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_loads_nothing(tmp_path):
  write_run(tmp_path, ["negative", "positive"])
  assert page_lib.write(tmp_path) == tmp_path / "report.html"
  page = Page(tmp_path / "report.html")
  assert not re.search(r"https?:|//\w|@import|url\(", page.source)
  assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
  assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
  addresses = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "srcset") if name in attrs]
  assert addresses and all(address.startswith(("#", "data:")) for address in addresses)


def test_the_policy_of_the_page_names_its_only_script(tmp_path):
  write_run(tmp_path, ["negative", "positive"])
  page = Page(page_lib.write(tmp_path))
  (policy,) = (attrs["content"] for attrs in page.attributes("meta") if "http-equiv" in attrs)
  digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
  assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_tables_headings_and_anchors_are_named(tmp_path):
  write_run(tmp_path, [f"class {i}" for i in range(12)], skill=1.0)
  page = Page(page_lib.write(tmp_path, examples("text", [f"row:{i}" for i in range(400)], ["a text"] * 400)))
  tables = [text.partition("</table>")[0] for text in page.source.split("<table")[1:]]
  assert len(tables) > 8
  for table in tables:
    assert (
      "<caption" in table and "<th scope=" in table and "<th>" not in table and '<th scope="col"></th>' not in table
    )
  ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
  assert len(ids) == len(set(ids))
  assert {attrs["href"][1:] for attrs in page.attributes("a")} <= set(ids)
  assert {attrs["aria-labelledby"] for attrs in page.attributes("section")} <= set(ids)
  assert all("alt" in attrs for attrs in page.attributes("img"))


def test_a_cell_of_the_matrix_leads_to_its_examples(tmp_path):
  write_run(tmp_path, ["cat", "dog"])
  rows = [("r1", "cat", "dog", 0.8), ("r2", "cat", "dog", 0.9), ("r3", "dog", "dog", 0.7), ("r4", "dog", "dog", 0.6)]
  lines = [",".join(map(str, row)) for row in rows]
  (tmp_path / "predictions_test.csv").write_text("\n".join(["id,label,prediction,score", *lines]) + "\n")
  texts = ["barks a bit", "barks a lot", "barks", "purrs"]
  page = Page(page_lib.write(tmp_path, examples("text", ["r1", "r2", "r3", "r4"], texts)))
  assert {"#cell-0-1", "#cell-1-1"} <= {attrs["href"] for attrs in page.attributes("a")}
  assert "cat , predicted dog : the surest 2. Close barks a lot 90 % sure, r2 barks a bit 80 % sure, r1" in page.text
  assert "dog , predicted dog : the least sure 2. Close purrs 60 % sure, r4 barks 70 % sure, r3" in page.text


def test_the_page_shows_the_metrics_of_the_run(tmp_path):
  metrics = write_run(tmp_path, ["negative", "positive"], skill=2.0)
  page = Page(page_lib.write(tmp_path))
  test = metrics["test"]
  low, high = test["accuracy_ci95"]
  assert f"Accuracy {test['accuracy']:.3f} on 400 test examples, 95 % interval {low:.3f} to {high:.3f}" in page.text
  for expected in (
    "Baseline (the majority class): 0.500",
    "fine-tuned",
    "0 labels differ",
    "123,456 parameters",
    "block1 4 100 frozen 0.0001",
    "stages from names",
    "Read of an example: at most 48 tokens of a text.",
    "3 duplicates",
    "rotten.jpg truncated JPEG",
    "all 400 0 400",
    "1 min 1 s",
    "812 MB",
    "keras 3.15.1",
    "--backbone=tiny.test --dataset=movie_reviews --epochs=2",
  ):
    assert expected in page.text, expected
  anchors = {attrs["href"][1:] for attrs in page.attributes("a")}
  assert anchors <= {attrs.get("id") for _, attrs in page.tags}


def test_a_solved_phase_has_no_epochs_and_no_learning_rate(tmp_path):
  write_run(tmp_path, ["negative", "positive"])
  plan = files.read_json(tmp_path / "plan.json")
  plan["phases"][0]["solver"] = "logistic"
  plan["phases"][1]["solver"] = "adamw"
  files.write_json(tmp_path / "plan.json", plan)
  text = Page(page_lib.write(tmp_path)).text
  assert "probe 320 solved by scikit-learn (logistic) full 320 2 10 32 2 0.01" in text
  assert "head 2 18 solved 0.001" in text


def test_a_skipped_phase_is_not_shown_as_trained_for_zero_epochs(tmp_path):
  write_run(tmp_path, ["negative", "positive"])
  plan = files.read_json(tmp_path / "plan.json")
  plan["phases"][1] |= {"epochs": 0, "steps_per_epoch": 0, "planned_epochs": 2, "skipped": "no gain can be shown"}
  files.write_json(tmp_path / "plan.json", plan)
  text = Page(page_lib.write(tmp_path)).text
  assert "full 320 skipped, see below" in text and "Phase full is skipped: no gain can be shown." in text
  assert "skipped" in text.partition("head 2 18")[2][:30]


@pytest.mark.parametrize(
  ("estimate", "fitted_on"), [({}, "the validation split"), ({"folds": 5}, "the held-out answers of 5 folds")]
)
def test_the_page_says_on_what_the_probabilities_were_calibrated(tmp_path, estimate, fitted_on):
  metrics = write_run(tmp_path, ["negative", "positive"])
  metrics["validation"] |= estimate
  files.write_json(tmp_path / "metrics.json", metrics)
  assert f"The calibration was fitted on {fitted_on}, which" in Page(page_lib.write(tmp_path)).text


@pytest.mark.slow
def test_plots_have_alt_texts_and_are_well_formed(tmp_path):
  write_run(tmp_path, ["negative", "positive"])
  page = Page(page_lib.write(tmp_path))
  certainty, image = page.attributes("img")
  assert "expected calibration error" in certainty["alt"]
  assert "probe, full" in image["alt"] and "3 epochs" in image["alt"] and "validation loss 1.100" in image["alt"]
  colours = {}
  for theme, address in (("light", image["src"]), ("dark", page.attributes("source")[1]["srcset"])):
    kind, data = address.split(",")
    assert kind == "data:image/svg+xml;base64"
    xml.etree.ElementTree.fromstring(base64.b64decode(data))
    colours[theme] = set(re.findall(rb"#[0-9a-f]{6};", base64.b64decode(data)))
  assert colours["light"] ^ colours["dark"] == {b"#1c2430;", b"#e6e9ed;"} and b"#e6e9ed;" in colours["dark"]


def test_everything_that_users_name_is_escaped(tmp_path):
  evil = "<script>alert('x')</script>"
  write_run(tmp_path, [evil, 'b" onclick="x', "体育 & co"], source=f"table:{evil}")
  page = Page(page_lib.write(tmp_path))
  assert page.scripts == [rendering.script()] and evil not in page.scripts[0]
  assert not any("onclick" in attrs for _, attrs in page.tags)
  assert evil in page.text and "体育 & co" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("num_classes, has_matrix", [(2, True), (10, True), (40, True), (41, False), (77, False)])
def test_many_classes_get_a_list_of_confusions_instead_of_a_matrix(tmp_path, num_classes, has_matrix):
  class_names = [f"class {i:02}" for i in range(num_classes)]
  write_run(tmp_path, class_names, num_examples=800, skill=2.0)
  page = Page(page_lib.write(tmp_path))
  cells = [attrs for attrs in page.attributes("td") if "--v" in attrs.get("style", "")]
  assert len(cells) == (num_classes**2 if has_matrix else 0)
  assert ("Most frequent confusions" in page.text) == (num_classes > 5)


def test_confusions_and_classes_are_sorted(tmp_path):
  class_names = ["a", "b", "c", "d", "e", "f"]
  confusion = np.diag([10] * 6 + [0])
  confusion[0, 1], confusion[2, 3], confusion[2, 4] = 30, 5, 7
  write_run(tmp_path, class_names)
  metrics = files.read_json(tmp_path / "metrics.json")
  metrics["test"]["confusion_matrix"] = confusion.tolist()
  for i, name in enumerate(class_names):
    metrics["test"]["per_class"][name]["f1"] = [0.1, 0.9, 0.5, 0.7, 0.8, 0.6][i]
  metrics["test"]["per_class"]["x"] = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
  files.write_json(tmp_path / "metrics.json", metrics)
  text = Page(page_lib.write(tmp_path)).text
  assert "Most frequent confusions" in text
  assert "a b 30 0.750 c e 7 0.318 c d 5 0.227" in text
  order = re.findall(r"([a-f]) \d+ [\d.]+ [\d.]+ (0\.[1-9]00)", text)
  assert [name for name, _ in order] == ["a", "c", "f", "d", "e", "b"]
  assert "b (30)" in text and "e (7)" in text
  # A class without a test example has no metrics, and comes last.
  assert "x 0 – – –" in text and text.index("x 0 –") > text.index("0.900")


def test_the_surest_errors_come_first(tmp_path):
  write_run(tmp_path, ["NA", "yes"])
  rows = [("r1", "NA", "NA", 0.99), ("r2", "yes", "NA", 0.6), ("r3", "NA", "yes", 0.97), ("r4", "yes", "NA", 0.97)]
  rows += [(f"more{i}", "yes", "NA", 0.55) for i in range(40)]
  lines = [",".join(map(str, row)) for row in rows]
  (tmp_path / "predictions_test.csv").write_text("\n".join(["id,label,prediction,score", *lines]) + "\n")
  text = Page(page_lib.write(tmp_path)).text
  assert "Wrong predictions: 43 of 44 test examples. The table shows those with the highest scores: 25." in text
  assert "NA yes 0.970 r3 yes NA 0.970 r4 yes NA 0.600 r2 yes NA 0.550 more0" in text
  assert "more21 " in text and "more22 " not in text


def test_the_worst_errors_show_their_text(tmp_path):
  write_run(tmp_path, ["negative", "positive"])
  lines = ["id,label,prediction,score", "r1,negative,positive,0.9", "r2,negative,positive,0.8"]
  (tmp_path / "predictions_test.csv").write_text("\n".join(lines) + "\n")
  texts = ["not <b>bad</b>\n at  all", "far " * 200]
  text = Page(page_lib.write(tmp_path, examples("text", ["r1", "r2"], texts))).text
  assert "not <b>bad</b> at all negative positive 0.900 r1" in text
  assert "far … negative positive 0.800 r2" in text and text.count("far ") < 200


@pytest.mark.slow
def test_the_worst_errors_show_their_image_as_the_model_sees_it(tmp_path):
  import tensorflow as tf

  write_run(tmp_path, ["a", "b"])
  rows = ("id,label,prediction,score", "in memory,a,b,0.9", "on d\\udce4sk,a,b,0.8")
  (tmp_path / "predictions_test.csv").write_text("\n".join(rows) + "\n")
  red = np.zeros((300, 600, 3), np.uint8) + np.array([250, 0, 0], np.uint8)
  (tmp_path / "large.png").write_bytes(tf.io.encode_png(red).numpy())
  # 16 bits, which most browsers' and Pillow's readers show otherwise.
  deep = tf.io.encode_png(np.full((8, 8, 1), 65535, np.uint16)).numpy()
  inputs = [deep, str(tmp_path / "large.png")]
  page = Page(page_lib.write(tmp_path, examples("image", ["in memory", "on d\udce4sk"], inputs)))
  pictures = [attrs["src"] for attrs in page.attributes("img") if attrs["src"].startswith("data:image/jpeg;base64,")]
  small, large = (tf.io.decode_jpeg(base64.b64decode(src.partition(",")[2])).numpy() for src in dict.fromkeys(pictures))
  assert small.shape[:2] == (8, 8) and small.min() > 250
  assert large.shape == (64, 128, 3) and abs(large.mean(axis=(0, 1)) - [250, 0, 0]).max() < 4


def examples(modality, ids, inputs):
  n = len(ids)
  columns = [strings(values) for values in (["a"] * n, ["h"] * n, ["test"] * n)]
  return Examples(strings(ids), Inputs.of(modality, inputs), *columns, skipped=[], source="s")


@pytest.mark.slow
def test_the_candidates_are_listed_with_the_reason_of_the_selection(tmp_path):
  metrics = write_run(tmp_path, ["negative", "positive"])
  assert "Candidates, on the validation split" not in Page(page_lib.write(tmp_path)).text
  metrics["candidates"] = {
    "majority_class": {"accuracy": 0.5},
    "probe": {"accuracy": 0.75, "loss": 0.61, "p_value": 3e-5},
  }
  metrics["selection_reason"] = "probe (nothing else was trained)"
  files.write_json(tmp_path / "metrics.json", metrics)
  text = Page(page_lib.write(tmp_path)).text
  assert "probe (nothing else was trained)." in text and "majority class 0.500 – – probe 0.750 0.610 3e-05" in text


@pytest.mark.slow
def test_only_the_metrics_are_needed(tmp_path):
  write_run(tmp_path, ["negative", "positive"])
  whole = page_lib.write(tmp_path).read_text()
  for name in ("log.jsonl", "predictions_test.csv", "splits.json", "plan.json", "config.json"):
    (tmp_path / name).unlink()
    Page(page_lib.write(tmp_path))
  files.write_json(
    tmp_path / "metrics.json",
    {"test": SINGLE_LABEL.with_codec(names=("a", "b")).metrics.compute_metrics(np.eye(2), np.arange(2))},
  )
  page = Page(page_lib.write(tmp_path))
  assert "Accuracy 1.000 on 2 test examples" in page.text
  assert "No test example was confused with another class" in page.text
  assert len(page.source) < len(whole)


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes_and_changes_no_matplotlib_setting(tmp_path):
  import matplotlib

  before = dict(matplotlib.rcParams)
  write_run(tmp_path, ["negative", "positive"])
  assert page_lib.write(tmp_path).read_bytes() == page_lib.write(tmp_path).read_bytes()
  assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_pyplot_and_tensorflow_are_not_imported():
  imported = "{'matplotlib.pyplot', 'tensorflow', 'keras'} & set(sys.modules)"
  code = f"import sys; from tl_app.report import page; print({imported})"
  root = pathlib.Path(page_lib.__file__).parents[2]
  assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, content, message",
  [
    ("metrics.json", "{}", "no metrics of a finished run"),
    ("metrics.json", '{"test": ', "metrics.json is damaged"),
    ("plan.json", "[]", "plan.json is damaged"),
    ("predictions_test.csv", "id,label,prediction,score\nx,a,b,high\n", "predictions_test.csv: line 2"),
    ("predictions_test.csv", "id,label\nx,a\n", "predictions_test.csv: line 2"),
  ],
)
def test_unreadable_files_are_named_and_nothing_is_written(tmp_path, name, content, message):
  write_run(tmp_path, ["negative", "positive"])
  (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=message):
    page_lib.write(tmp_path)
  assert not (tmp_path / "report.html").exists()


def test_a_directory_without_a_run_is_refused(tmp_path):
  with pytest.raises(UserError, match="train first"):
    page_lib.write(tmp_path / "nowhere")


def test_what_scrolls_can_be_reached_by_keyboard():
  texts = [
    path.read_text(encoding="utf-8") for path in pathlib.Path(page_lib.__file__).parent.rglob("templates/**/*.html")
  ]
  regions = [tag for text in texts for tag in re.findall(r'<div class="scroll.*?>(?=<)', text)]
  assert len(regions) > 10
  assert all('tabindex="0" role="group" aria-label="' in tag for tag in regions)


def test_the_templates_are_packaged():
  package = pathlib.Path(page_lib.__file__).parent
  setup = configparser.ConfigParser()
  setup.read(package.parents[1] / "setup.cfg")
  patterns = setup["options.package_data"]["tl_app.report"].split(", ")
  packaged = {path for pattern in patterns for path in package.glob(pattern)}
  assert packaged == set(package.rglob("templates/**/*.*"))
