"""Flags of `explain` that cannot work are refused before TensorFlow starts."""

import sys

import pytest
from absl.testing import flagsaver
from tiny_runs import write_run

from tl_app import explain
from tl_app.commands import cli


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
  """Returns a function, flags -> the line of the error."""
  write_run(tmp_path / "run", ["a", "b"], num_examples=40)
  (tmp_path / "run/checkpoints").mkdir()
  for name in ("model.weights.h5", "task.json"):
    (tmp_path / "run/checkpoints" / name).touch()
  monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
  monkeypatch.setattr(cli, "start_tensorflow", lambda: pytest.fail("TensorFlow was started"))

  def call(*flags, workdir=tmp_path / "run"):
    monkeypatch.setattr(sys, "argv", ["explain", f"--workdir={workdir}", *flags])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit:
      cli.run(explain.main, explain.__doc__, explain.define_flags)
    assert exit.value.code == 2
    return capsys.readouterr().err.strip()

  return call


def test_flags_that_cannot_work(refusal, tmp_path):
  one_of = "tl_app: give one of --input, a file or directory, --text (and"
  for flags, line in [
    ((), one_of),
    (("--text=a", "--input=b.txt"), one_of),
    (("--text_pair=a",), one_of),
    (("--text=a", "--text="), one_of),
    (
      ("--text=a", "--text=b", "--text_pair=c"),
      "tl_app: --text is given 2 times, --text_pair 1 time: give one --text_pair",
    ),
    (("--text=a", "--report=3"), one_of),
    (("--report=3", "--output=x"), "tl_app: --output does nothing with --report, which adds test examples"),
    (("--input=gone.txt",), "tl_app: --input=gone.txt: there is no such file or directory"),
    (("--text=a", "--method=lime"), "tl_app: --method=lime: value should be one of <auto|grad_cam|integrated"),
    (("--text=a", "--top=0"), "tl_app: --top=0: 0 is not a positive"),
  ]:
    assert refusal(*flags).startswith(line), flags
  assert "holds no finished run" in refusal("--text=a", workdir=tmp_path)


@pytest.mark.parametrize(
  ("arguments", "inputs"),
  [
    (["--text=a", "--text=b, c"], ["a", "b, c"]),
    (["--text=a"], ["a"]),
    (["--text=a", "--text=b", "--text_pair=c", "--text_pair=d"], [["a", "c"], ["b", "d"]]),
    (["--input=texts.txt"], "texts.txt"),
  ],
)
def test_every_text_is_an_input(arguments, inputs, monkeypatch):
  found = []
  monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
  monkeypatch.setattr(sys, "argv", ["explain", *arguments])
  with flagsaver.flagsaver(), pytest.raises(SystemExit):
    cli.run(lambda: found.extend([cli.inputs(), cli.FLAGS["text"].help]), "", explain.define_flags)
  assert found == [inputs, "A text, in place of --input; several --text are several inputs."]
