"""The demo: what a person is shown, what is flagged, and that a training reads the table. Gradio is not needed."""

import csv
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request

import numpy as np
import PIL.Image
import pytest
import tiny_modules

from tl_app import data, tasks
from tl_app.assets import Assets
from tl_app.commands import cli, explain, flagged
from tl_app.commands import demo as demo_lib
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.data.readers import unlabelled
from tl_app.errors import UserError

CHROMIUM = pathlib.Path("/usr/bin/chromium")
PAGES = ("gradio", "playwright")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the workdir of a run on texts about two colours."""
  root = tmp_path_factory.mktemp("demo")
  rows = [(f"word{number % 2} filler{number}", ("red", "green")[number % 2]) for number in range(60)]
  with open(root / "texts.csv", "w", newline="") as file:
    csv.writer(file).writerows([("text", "label"), *rows])
  flags = {"recipe": "probe", "head_epochs": 40, "head_learning_rate": 3e-2, "feature_cache": "off", "offline": True}
  backbone = tiny_modules.strings(root / "strings")
  config = Config(backbone=str(backbone), dataset=f"table:{root}/texts.csv", coverage=0.9, **flags)
  train_lib.train_and_evaluate(config, root / "run")
  return root / "run"


@pytest.mark.slow
def test_a_flagged_answer_is_a_row_that_a_training_reads(run, tmp_path):
  explained = {"backbone": "b", "task": "t", "score_title": "s", "groups": [{"title": "", "entries": []}]}
  session = demo_lib.Session(run, str(tmp_path / "new" / "flagged.csv"), lambda row: explained)
  shown = session.answer(["word0 filler1"])
  assert shown.labels == ("red",) and shown.words.startswith(f"red, {100 * shown.score:.0f} % sure")
  assert abs(sum(shown.probabilities.values()) - 1) < 1e-5 and "<title>Explanations" in shown.explanation
  assert "&lt;title&gt;" in demo_lib.frame(shown.explanation) and demo_lib.frame("") == ""
  assert session.flag(shown, ["blue"]).startswith("Saved: ") and "rows: 2" in session.flag(shown, ["green"])
  examples = data.load(Config(dataset=f"table:{tmp_path}/new/flagged.csv"), Assets.of(Config(offline=True)))
  assert list(examples.labels) == ["blue", "green"]
  assert list(examples.inputs.array()) == ["word0 filler1"] * 2


@pytest.mark.slow
def test_a_run_explains_its_answers_with_similar_training_examples(run, tmp_path):
  explained = explain.opened(run, explain.Options(similar=2))
  (entry,) = explained(next(unlabelled.from_values(["word0 filler1"], "text", False)))["groups"][0]["entries"]
  assert "error" not in entry and len(entry["similar"]) == 2
  assert {example["label"] for example in entry["similar"]} == {"red"}
  shown = demo_lib.Session(run, str(tmp_path / "flagged.csv"), explained).answer(["word0 filler1"])
  assert "imilar" in shown.explanation


@pytest.mark.slow
def test_inputs_without_an_answer_are_explained_and_never_saved(run, tmp_path):
  session = demo_lib.Session(run / "export", str(tmp_path / "flagged.csv"))
  assert not session.explains
  for inputs in ([""], [None]):
    shown = session.answer(inputs)
    assert shown.words == "Give an input first." and session.flag(shown, ["red"]) == "Ask for an answer first."
  assert session.flag(None, ["red"]) == "Ask for an answer first."
  assert session.flag(session.answer(["word1"]), [" "]).startswith("Not saved: the right label is empty")
  assert not (tmp_path / "flagged.csv").exists()


def table(path, name, modality="text", **codec):
  return flagged.FlaggedTable(path, tasks.TASKS[name].with_codec(**codec), modality, False)


def test_labels_that_do_not_fit_the_task_are_refused(tmp_path):
  numbers = table(tmp_path / "n.csv", "regression", names=("stars",), mean=(0.0,), deviation=(1.0,))
  numbers.add([b"good"], ["4.5"], "3", None)
  with pytest.raises(UserError, match="number"):
    numbers.add([b"good"], ["four"], "3", None)
  tagged = table(tmp_path / "t.csv", "token_classification", names=("O", "B-place", "I-place"))
  tagged.add([b"to Rome"], ["O B-place"], "O O", 0.5)
  with pytest.raises(UserError, match="2 words, but there are 1 tags"):
    tagged.add([b"to Rome"], ["O"], "O O", 0.5)
  assert len(numbers) == len(tagged) == 1
  two = table(tmp_path / "two.csv", "regression", names=("price", "weight"), mean=(0.0,) * 2, deviation=(1.0,) * 2)
  two.add([b"a"], ["1", "2.5"], "3 4", None)
  assert (tmp_path / "two.csv").read_text() == "text,price,weight,prediction,score\na,1,2.5,3 4,\n"


def test_flagged_classes_are_read_as_they_were_answered(tmp_path):
  codec = {"names": ("a,b", "c", "d"), "separator": ";"}
  several, answers = (
    table(tmp_path / "several.csv", "multi_label", **codec),
    tasks.MULTI_LABEL.with_codec(**codec).answers,
  )
  chosen = [["a,b", "c"], [], ["c", "d"], ["a,b"], ["d"], ["c"], []]
  for labels in chosen:
    several.add([f"text {len(several)}".encode()], answers.label_cells({"labels": labels}), "", 0.5)
  examples = data.load(Config(dataset=f"table:{tmp_path / 'several.csv'}"), Assets(offline=True))
  task, _ = tasks.choose(Config(), examples)
  assert task.name == "multi_label" and task.codec.classes(examples.labels) == [tuple(labels) for labels in chosen]


def test_a_table_of_another_kind_is_not_extended(tmp_path):
  (tmp_path / "texts.csv").write_text("text,label\na,b\n")
  with pytest.raises(UserError, match="other columns"):
    table(tmp_path / "texts.csv", "single_label")
  with pytest.raises(UserError, match=r"\.csv"):
    table(tmp_path / "texts.txt", "single_label")


def test_a_table_that_another_program_has_saved_is_continued(tmp_path):
  file = tmp_path / "flagged.csv"
  for before in ("", "\ufefftext,label,prediction,score\r\nx,a,b,0.5"):
    file.write_bytes(before.encode())
    table(file, "single_label", names=("a", "b")).add([b"y"], ["b"], "a", 0.25)
    rows = list(csv.DictReader(file.open(newline="", encoding="utf-8-sig")))
    assert rows[-1] == {"text": "y", "label": "b", "prediction": "a", "score": "0.25"}
    assert len(rows) == (2 if before else 1)


def test_a_flagged_image_is_kept_as_it_was_uploaded(tmp_path):
  PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "upload.png")
  content = (tmp_path / "upload.png").read_bytes()
  images = table(tmp_path / "flagged.csv", "single_label", "image", names=("a", "b"))
  for label in ("a", "new"):
    images.add([content], [label], "b", 0.25)
  (kept,) = (tmp_path / "flagged").iterdir()
  assert kept.suffix == ".png" and kept.read_bytes() == content
  assert (tmp_path / "flagged.csv").read_text().splitlines()[1:] == [
    f"flagged/{kept.name},a,b,0.25",
    f"flagged/{kept.name},new,b,0.25",
  ]


def test_gradio_that_is_absent_is_one_line(monkeypatch, tmp_path):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find(name, *rest))
  with pytest.raises(UserError, match=r"needs gradio: pip install 'tl_app\[demo\]'"):
    cli.need_packages("demo", "gradio")
  code = "import sys; sys.argv = ['tl_app.demo', '--model=x']; from tl_app import demo; "
  code += "from tl_app.commands import cli; import importlib.util as i; "
  code += "f = i.find_spec; i.find_spec = lambda n, *r: None if n == 'gradio' else f(n, *r); "
  code += "cli.run(demo.main, demo.__doc__, demo.define_flags)"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and "tl_app[demo]" in done.stderr


def test_a_damaged_image_reaches_the_model_as_it_was_uploaded(tmp_path):
  pytest.importorskip("gradio")
  from gradio.data_classes import ImageData

  from tl_app.commands import demo_page

  (tmp_path / "bad.png").write_bytes(b"\x89PNG no image")
  (image,) = demo_page._inputs(types.SimpleNamespace(modality="image", pairs=False))
  assert image.preprocess(ImageData(path=str(tmp_path / "bad.png"))) == str(tmp_path / "bad.png")
  assert image.preprocess(None) is None


@pytest.mark.slow
def test_the_page_in_a_browser_answers_flags_and_reaches_nothing_else(run, tmp_path):
  missing = [name for name in PAGES if importlib.util.find_spec(name) is None]
  if missing or not CHROMIUM.exists():
    pytest.skip(f"needs {', '.join(missing) or CHROMIUM}")
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  flags = [f"--model={run}/export", f"--flagged={tmp_path}/flagged.csv", f"--port={port}"]
  server = subprocess.Popen(
    [sys.executable, "-m", "tl_app.demo", *flags], env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
  )
  try:
    _wait(server, f"http://127.0.0.1:{port}/")
    requests = _ask(f"http://127.0.0.1:{port}/", "word1 filler3")
    with pytest.raises(urllib.error.HTTPError, match="400"):
      urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "elsewhere.org"}))
  finally:
    server.terminate()
    server.wait(30)
  assert requests and all(address.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:")) for address in requests)
  assert (tmp_path / "flagged.csv").read_text().splitlines()[1].startswith("word1 filler3,green,green,")


def _wait(server, address):
  for _ in range(240):
    assert server.poll() is None
    try:
      urllib.request.urlopen(address)
      return
    except OSError:
      time.sleep(0.5)
  raise AssertionError("the page did not open")


def _ask(address, text):
  """Asks for an answer in Chromium, flags it, and returns the addresses that the browser asked for."""
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page, requests = browser.new_page(), []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Answer", exact=True).click()
    page.wait_for_function("[...document.querySelectorAll('textarea')].some(area => area.value.includes('% sure'))")
    page.get_by_role("button", name="Flag this answer").click()
    page.get_by_text("Saved:").wait_for()
    browser.close()
  return requests
