"""Config files and the README say what is true: flags exist, tables equal the code's, figures agree."""

import functools
import json
import pathlib
import re
import subprocess
import sys

import pytest

from tl_app import backbones, recipes
from tl_app import config as config_lib
from tl_app.checking import findings

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"python -m tl_app\.(\w+)([^`\n]*)")
FLAG = re.compile(r"(?<![\w-])--(\w+)")
PARSE = """
import dataclasses, json, sys
from tl_app import cli, train
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
  """Returns the flags that `python -m tl_app.COMMAND --help` lists."""
  done = subprocess.run(
    [sys.executable, "-m", f"tl_app.{command}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
  )
  listed = re.findall(r"^  --(\[no\])?(\w+)", done.stdout, re.MULTILINE)
  return {name for _, name in listed} | {f"no{name}" for no, name in listed if no} | {"flagfile", "help"}


def unknown_flags(command, arguments):
  known = known_flags(command)
  return [flag for flag in FLAG.findall(arguments) if flag not in known]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_accepted_by_train(path):
  done = parse(f"--flagfile={path}", "--workdir=w")
  assert done.returncode == 0, done.stderr
  values = json.loads(done.stdout)
  given = dict(re.findall(r"^--(\w+)=(.*)$", path.read_text(), re.MULTILINE))
  assert given and {name: str(values[name]) for name in given} == given
  assert backbones.resolve(values["backbone"]).name == values["backbone"]


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
def test_the_readme_has_the_figures_of_the_config(path):
  (row,) = (line for line in README.splitlines() if line.startswith(f"| `{path.stem}` |"))
  figures = re.search(r"(0\.\d{3}) .*?(0\.\d{3}) to (0\.\d{3})", header(path)["Result"]).groups()
  assert "{} ({} to {})".format(*figures) in row


def test_commands_of_the_readme_exist_with_all_their_flags():
  commands = COMMAND.findall(README)
  assert {name for name, _ in commands} == {
    "train",
    "evaluate",
    "predict",
    "export",
    "inspect",
    "compare",
    "benchmark",
    "check",
    "find_lr",
  }
  assert {name: flags for name, arguments in commands if (flags := unknown_flags(name, arguments))} == {}
  every = set.union(*map(known_flags, {name for name, _ in commands}))
  assert set(FLAG.findall(COMMAND.sub("", README))) <= every


def test_training_commands_of_the_readme_are_valid():
  for name, arguments in COMMAND.findall(README):
    if name == "train" and "--dataset" in arguments:
      done = parse(*arguments.split())
      assert done.returncode == 0, (arguments, done.stderr)


def test_commands_of_configs_have_known_flags():
  for path in CONFIGS:
    assert unknown_flags("train", path.read_text()) == [], path.name


def test_files_that_the_readme_names_exist():
  named = re.findall(r"(?:configs|notebooks|tl_app|tests)/[\w/]+\.\w+", README)
  assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_the_readmes_table_of_backbones_is_the_codes():
  rows = backbones.table()
  expected = [list(rows[0]), *([f"`{row['name']}`", *list(row.values())[1:]] for row in rows)]
  start = README.index("| " + " | ".join(expected[0]) + " |")
  lines = README[start:].split("\n\n")[0].splitlines()
  assert [line[2:-2].split(" | ") for line in (lines[0], *lines[2:])] == expected


def test_the_readmes_table_of_findings_is_the_codes():
  lines = README[README.index("| finding | severity |") :].split("\n\n")[0].splitlines()[2:]
  share = f", serious from {100 * findings.SERIOUS_SHARE:.0f} %"
  assert [line[2:-2].split(" | ") for line in lines] == [
    [f"`{name}`", kind.severity + (share if kind.grows else ""), kind.meaning, kind.advice]
    for name, kind in findings.KINDS.items()
  ]


@pytest.mark.parametrize("flag, names", [("recipe", recipes.RECIPES), ("strategy", None), ("long_text", None)])
def test_the_readmes_tables_of_choices_are_whole(flag, names):
  choices = config_lib.FIELDS[flag].metadata["choices"]
  table = README[README.index(f"| `--{flag}` |") :].split("\n\n")[0].splitlines()[2:]
  assert [re.match(r"\| `(\w+)`", line)[1] for line in table] == list(choices)
  default = config_lib.FIELDS[flag].default
  assert [line.split("`")[1] for line in table if "(default)" in line] == [default]
  assert names is None or set(names) == set(choices)
