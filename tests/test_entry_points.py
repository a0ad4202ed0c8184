"""The commands as a user runs them, one process each, on one small trained run."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tiny_data
import tiny_modules

from tl_app import files, workdir
from tl_app.config import Config

pytestmark = pytest.mark.slow

FLAGS = ("--recipe=probe", "--head_epochs=40", "--head_learning_rate=0.01", "--image_size=16")


def command(name, *flags):
  return [sys.executable, "-m", f"tl_app.{name}", *map(str, flags)]


def run(name, *flags, code=0):
  """Runs an entry point and returns its `CompletedProcess`; fails unless it exits with `code`."""
  done = subprocess.run(command(name, *flags), capture_output=True, text=True, check=False)
  assert done.returncode == code, done.stderr[-3000:]
  assert "Traceback" not in done.stderr
  return done


@pytest.fixture(scope="session")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("entry_points")
  tiny_modules.image(root / "image")
  tiny_data.colours(root / "colours")
  flags = [f"--backbone={root}/image", f"--dataset=images:{root}/colours", f"--cache_dir={root}/cache", *FLAGS]
  (root / "tiny.cfg").write_text("# Flags of the tests.\n" + "\n".join(flags) + "\n")
  return root


@pytest.fixture(scope="session")
def trained(world):
  """Returns the `CompletedProcess` of the training; the run lies in world/run."""
  return run("train", f"--flagfile={world}/tiny.cfg", f"--workdir={world}/run")


def test_train_writes_every_file_and_ends_with_the_summary(world, trained):
  names = {path.name for path in (world / "run").iterdir() if not path.name.startswith(".")}
  assert names >= {
    *("config.json", "plan.json", "splits.json", "checkpoints", "metrics.json", "predictions_test.csv", "report.html"),
    *("export", "log.jsonl", "findings.json"),
  }
  findings = files.read_json(world / "run/findings.json")
  assert [finding["kind"] for finding in findings["findings"]] == ["tiny_image"]
  assert "warning  tiny_image: images with a side below 32 pixels: 60 of 60" in trained.stderr
  report = (world / "run/report.html").read_text()
  assert "<h3>Findings</h3>" in report and "images with a side below 32 pixels" in report
  metrics = files.read_json(world / "run/metrics.json")
  assert metrics["test"]["accuracy"] >= 0.9
  assert metrics["parity"]["label_flips"] == 0 and metrics["parity"]["max_probability_difference"] <= 1e-4
  assert (world / "run/export/assets/labels.txt").read_text() == "blue\ngreen\nred\n"
  # Results on stdout, progress on stderr.
  assert trained.stdout.startswith(f"test accuracy     {metrics['test']['accuracy']:.3f} (95 % interval ")
  assert f"{world}/run/export" in trained.stdout and len(trained.stdout.splitlines()) <= 14
  assert "probe epoch 1/40  accuracy " in trained.stderr and "I0000" not in trained.stderr


def test_bundle_says_what_it_holds_and_what_is_local(world):
  done = run("bundle", f"--flagfile={world}/tiny.cfg", f"--output={world}/tiny.tar")
  *_, size, local = done.stdout.splitlines()
  assert size.startswith(f"{world}/tiny.tar: 0 downloads, 0 files, 0.0 MB")
  assert (
    local == f"not in it, because they are local: --dataset=images:{world}/colours, --backbone={world}/image; "
    "copy them too"
  )
  assert run("bundle", "--output=a.tar", code=2).stderr.startswith("tl_app: --backbone or --dataset is needed")


def test_evaluate_measures_what_training_measured(world, trained):
  done = run("evaluate", f"--workdir={world}/run", f"--output={world}/measured")
  metrics, measured = files.read_json(world / "run/metrics.json"), files.read_json(world / "measured/metrics.json")
  assert measured["test"]["confusion_matrix"] == metrics["test"]["confusion_matrix"]
  assert measured["test"]["loss"] == pytest.approx(metrics["test"]["loss"], abs=1e-5)
  rows = (world / "measured/predictions.csv").read_text().splitlines()
  expected = (world / "run/predictions_test.csv").read_text().splitlines()
  assert [row.split(",")[:3] for row in rows] == [row.split(",")[:3] for row in expected]
  assert done.stdout.startswith("test accuracy   ") and "\x1b" not in done.stdout + done.stderr


def test_predict_gives_one_json_object_a_line(world, trained):
  images = sorted((world / "colours/red").iterdir())[:3]
  folder = world / "new"
  folder.mkdir()
  for path in images:
    (folder / path.name).write_bytes(path.read_bytes())
  (folder / "empty.png").write_bytes(b"")
  done = run("predict", f"--model={world}/run/export", f"--input={folder}")
  answers = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(answers) == 4
  good = [answer for answer in answers if "label" in answer]
  assert [answer["label"] for answer in good] == ["red"] * 3
  assert all(answer["probabilities"]["red"] == answer["score"] for answer in good)
  assert sum(good[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
  assert [answer["error"] for answer in answers if "error" in answer] == ["it is empty"]


def test_export_again_gives_a_proven_saved_model(world, trained):
  done = run("export", f"--workdir={world}/run", f"--output={world}/serving/1")
  assert f"{world}/serving/1" in done.stdout and "0 labels differ" in done.stdout
  assert len(done.stdout.splitlines()) == 1
  assert (world / "serving/1/saved_model.pb").is_file()
  assert (world / "serving/1/assets/labels.txt").read_text() == "blue\ngreen\nred\n"


def test_inspect_shows_one_backbone(world):
  done = run("inspect", f"--backbone={world}/image", "--image_size=16")
  lines = done.stdout.splitlines()
  assert "image float32 [None, 16, 16, 3]" in done.stdout and "features    8" in done.stdout
  assert "image size  16 x 16 pixels" in done.stdout
  stages = [line.split()[:2] for line in lines[-4:]]
  assert stages == [["stem", "5"], ["block_0", "5"], ["block_1", "5"], ["top", "5"]]


def test_check_prints_a_line_a_finding_and_says_by_its_code_how_bad_it_is(world, tmp_path):
  tiny_data.colours(tmp_path / "colours")
  clean = run("check", f"--flagfile={world}/tiny.cfg", f"--dataset=images:{tmp_path}/colours")
  first = clean.stdout.splitlines()[0]
  assert first.startswith(f"images:{tmp_path}/colours: 60 images, single_label, 3 classes; train ")
  assert clean.stdout.splitlines()[-1].startswith("serious: 0, warning: 1, info: 0; ")
  (tmp_path / "colours/red/000.png").write_bytes(b"")
  found = run("check", f"--dataset=images:{tmp_path}/colours", f"--output={tmp_path}/o.json", code=1)
  assert "serious  empty_file: image files of 0 bytes: 1 of 60, e.g. red/000.png; fetch them again" in found.stdout
  assert found.stderr.splitlines()[-1] == f"tl_app: --dataset=images:{tmp_path}/colours is faulty; serious findings: 1"
  kinds = [finding["kind"] for finding in files.read_json(tmp_path / "o.json")["findings"]]
  assert kinds == ["empty_file", "tiny_image"]
  absent = run("check", "--dataset=images:nowhere", code=2)
  message = "tl_app: --dataset=images:nowhere: there is no directory nowhere, seen from "
  assert absent.stderr.splitlines()[-1] == f"{message}{pathlib.Path.cwd()}"


def test_an_interrupted_run_ends_cleanly_and_its_workdir_is_free(world):
  directory = world / "interrupted"
  flags = (f"--flagfile={world}/tiny.cfg", f"--workdir={directory}", "--recipe=full", "--epochs=100000")
  pipes = {name: subprocess.PIPE for name in ("stdout", "stderr")}
  # A process that a shell starts in the background, or that such a test suite starts, ignores the signal.
  process = subprocess.Popen(command("train", *flags), **pipes, text=True, preexec_fn=_heed_interruptions)
  _wait_for(lambda: (directory / "log.jsonl").exists() and '"full"' in (directory / "log.jsonl").read_text(), process)
  process.send_signal(signal.SIGINT)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 130
  assert "Traceback" not in stderr
  assert stderr.splitlines()[-1] == "tl_app: interrupted; the same command continues"
  assert len(list((directory / "resume").iterdir())) == 2
  left = {path.name for path in directory.iterdir()}
  assert not left & {"metrics.json", "predictions_test.csv", "report.html", "export"}
  with workdir.claim(directory, Config(workdir=str(directory), backbone="other", dataset="digits")) as paths:
    assert not paths.log.exists()


def _heed_interruptions():
  signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for(condition, process, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()[1][-3000:]
    assert time.monotonic() < deadline
    time.sleep(0.1)
