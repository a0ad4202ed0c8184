"""Config files say what is true: flags exist, and the results page has the same numbers."""

import functools
import json
import pathlib
import re
import subprocess
import sys

import pytest

from tl_app import backbones

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
FLAG = re.compile(r"(?<![\w-])--(\w+)")
PARSE = """
import dataclasses, json, sys
from tl_app import train
from tl_app.commands import cli
train.define_flags()
cli.FLAGS(sys.argv)
print(json.dumps(dataclasses.asdict(cli.config_from_flags())))
"""


def header(path):
  """Returns {"command", "Result", "Time", "Hardware"} of a config's comment; a line without a name continues."""
  lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
  fields, name = {"command": lines[0]}, "command"
  for line in lines[1:]:
    match = re.match(r"(Result|Time|Hardware): (.*)", line)
    name, text = match.groups() if match else (name, line)
    fields[name] = f"{fields.get(name, '')} {text}".strip()
  return fields


def parse(*arguments):
  """Returns the finished process that reads `arguments` as `tl_app.train` does and prints the config as JSON."""
  return subprocess.run([sys.executable, "-P", "-c", PARSE, *arguments], cwd=ROOT, capture_output=True, text=True)


@functools.cache
def known_flags(command):
  """Returns the flags that `python -m tl_app.COMMAND --helpfull` lists."""
  done = subprocess.run(
    [sys.executable, "-m", f"tl_app.{command}", "--helpfull"], cwd=ROOT, capture_output=True, text=True, check=True
  )
  listed = re.findall(r"^  --(\[no\])?(\w+)", done.stdout, re.MULTILINE)
  return {name for _, name in listed} | {f"no{name}" for no, name in listed if no} | {"flagfile", "help", "helpfull"}


def unknown_flags(command, arguments):
  known = known_flags(command)
  return [flag for flag in FLAG.findall(arguments) if flag not in known]


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_accepted_by_train(path):
  done = parse(f"--flagfile={path}", "--workdir=w")
  assert done.returncode == 0, done.stderr
  values = json.loads(done.stdout)
  given = dict(re.findall(r"^--(\w+)=(.*)$", path.read_text(), re.MULTILINE))
  assert given and {name: str(values[name]) for name in given} == given
  assert backbones.resolve(values["backbone"]).name == values["backbone"]


@pytest.mark.slow
def test_an_unknown_flag_in_a_config_is_an_error(tmp_path):
  (tmp_path / "bad.cfg").write_text("--backbone=resnet50\n--dataset=digits\n--epoch=3\n")
  done = parse(f"--flagfile={tmp_path / 'bad.cfg'}", "--workdir=w")
  assert done.returncode and "epoch" in done.stderr


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_a_lab_record(path):
  fields = header(path)
  assert fields["command"].startswith(f"python -m tl_app.train --flagfile=configs/{path.name} --workdir=runs/")
  mean, low, high = re.search(r"(0\.\d{3}) .*?(0\.\d{3}) to (0\.\d{3})", fields["Result"]).groups()
  assert low <= mean <= high and "--split_seed" in fields["Result"]
  assert re.search(r"\d+ (s|min)\b", fields["Time"]) and fields["Hardware"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_results_page_has_the_numbers_of_the_config(path):
  (row,) = (line for line in RESULTS.splitlines() if line.startswith(f"| `{path.stem}` |"))
  numbers = re.search(r"(0\.\d{3}) .*?(0\.\d{3}) to (0\.\d{3})", header(path)["Result"]).groups()
  assert "{} ({} to {})".format(*numbers) in row


@pytest.mark.slow
def test_commands_of_configs_have_known_flags():
  for path in CONFIGS:
    assert unknown_flags("train", path.read_text()) == [], path.name
