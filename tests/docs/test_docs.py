"""README and docs: every command parses, every link resolves, every table equals the code's."""

import ast
import configparser
import functools
import json
import pathlib
import re
import shlex
import subprocess
import sys

import docs_tables
import pytest

from tl_app import config as config_lib
from tl_app.recipes import recipes

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
EVERYTHING = "\n\n".join(TEXTS.values())
COMMANDS = {
  *("train", "pretrain", "evaluate", "predict", "export", "inspect", "compare", "benchmark", "check", "find_lr"),
  *("explain", "demo", "bundle", "tune", "select"),
}
MAX_README_LINES = 150
MAX_README_RESULTS = 8

# Parses many command lines of one entry point in one process. Flags keep their defaults between lines.
PARSE = """
import importlib, json, sys
from tl_app import config
from tl_app.commands import cli
from tl_app.errors import UserError
name, lines = sys.argv[1], json.load(sys.stdin)
importlib.import_module(f"tl_app.{name}").define_flags()
faults = {}
for line in lines:
  arguments, whole = line["arguments"], line["whole"]
  for flag in cli.FLAGS:
    cli.FLAGS[flag].unparse()
  try:
    rest = cli.FLAGS([name, *arguments])[1:]
    if rest:
      raise UserError(f"{rest} are not flags")
    finished = name == "compare" and cli.FLAGS.workdirs
    if whole and name in ("train", "pretrain", "compare", "find_lr", "benchmark", "tune") and not (
      finished or cli.FLAGS.config
    ):
      cli.config_from_flags()
    if whole and name == "check":
      config.validate(config.Config(**cli.given()), needed=("dataset",))
  except Exception as error:
    faults[" ".join(arguments)] = str(error)
print(json.dumps({"faults": faults, "flags": sorted(cli.FLAGS)}))
"""


def commands(text):
  """Yields (module, arguments) of each `python -m MODULE ..` in a page, in code blocks and in inline code."""
  for module, rest in re.findall(r"python -m ([\w.]+)([^`\n]*)", text.replace("\\\n", " ")):
    if rest.strip() != "..":
      yield module, shlex.split(rest.replace("\\|", "|"), comments=True)


def inline_flags(text):
  """Yields the arguments of each inline code that begins with a flag and has a value."""
  for code in re.findall(r"(?<!`)`(--[^`\n]+)`(?!`)", text):
    if "=" in code and ".." not in code:
      yield shlex.split(code)


@functools.cache
def flags_of(name):
  """Returns the names of the flags of a command."""
  return parse(name, [])[1]


def parse(name, lines):
  """Returns ({line: fault}, the flags of the command) of a list of {"arguments", "whole"}."""
  done = subprocess.run(
    [sys.executable, "-P", "-c", PARSE, name], cwd=ROOT, input=json.dumps(lines), capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  return result["faults"], set(result["flags"])


def table(text, start):
  """Returns the rows of the Markdown table whose header row begins with `start`, the header first."""
  lines = text[text.index(start) :].split("\n\n")[0].splitlines()
  return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def without_code(text):
  """Returns a page without its code blocks."""
  return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text):
  """Returns the anchors of the headings of a page, as GitHub makes them."""
  headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_of_the_docs_is_valid(command):
  lines = [
    arguments
    for module, arguments in commands(EVERYTHING)
    if module == f"tl_app.{command}" and arguments != ["--helpfull"]
  ]
  assert lines
  faults, _ = parse(command, [{"arguments": line, "whole": True} for line in lines])
  assert faults == {}


def test_commands_are_of_known_modules():
  modules = {module for module, _ in commands(EVERYTHING)} - {"tl_app.X"}
  assert {name for module in modules if (name := module.removeprefix("tl_app.")) != module} == COMMANDS
  others = [module for module in modules if not module.startswith(("tl_app.", "pip", "pytest", "venv"))]
  paths = {name: ROOT / name.replace(".", "/") for name in others}
  known = [
    name for name, path in paths.items() if (path / "__main__.py").is_file() or path.with_suffix(".py").is_file()
  ]
  assert known == others


@pytest.mark.slow
def test_inline_flags_have_valid_values():
  waiting = list(inline_flags(EVERYTHING))
  # What one command does not take may be a flag of the next.
  for command in ("train", "benchmark", "export", "predict", "explain", "tune"):
    faults, _ = parse(command, [{"arguments": line, "whole": False} for line in waiting])
    assert len(faults) < len(set(map(" ".join, waiting))), command
    waiting = [line for line in waiting if " ".join(line) in faults]
  assert waiting == []


@pytest.mark.slow
def test_flags_that_the_docs_name_exist():
  of_other_programs = r"python -m (?!tl_app)[^`\n]*|pip (download|install) [^`\n]*"
  of_other_programs += r"|^(curl|saved_model_cli|  run --dir|#SBATCH|# gcloud) [^`\n]*"
  ours = re.sub(of_other_programs, "", EVERYTHING, flags=re.MULTILINE)
  named = set(re.findall(r"(?<![\w-])--(?:\[no\])?(\w+)", ours))
  known = set().union(*map(flags_of, COMMANDS))
  assert {name for name in named if name not in known and name.removeprefix("no") not in known} <= {
    "help",
    "helpfull",
    "flagfile",
  }


@pytest.mark.slow
def test_every_command_but_predict_takes_a_bundle():
  assert "Every command but `predict` takes it" in TEXTS["docs/offline.md"]
  assert {name for name in COMMANDS if "bundle" not in flags_of(name)} == {"predict"}


def test_relative_links_resolve():
  broken = []
  for name, text in TEXTS.items():
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
      if re.match(r"[a-z]+:", target):
        continue
      file, _, anchor = target.partition("#")
      path = (ROOT / name).parent / file if file else ROOT / name
      if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
        broken.append(f"{name}: {target}")
  assert broken == []


def test_every_page_of_docs_begins_with_a_purpose_and_a_command():
  for name, text in TEXTS.items():
    assert re.match(r"# .+\n\n[\w`]", text), name
    assert "```bash" in text.split("\n## ")[0], name


def test_every_page_of_docs_is_linked_from_the_readme():
  linked = re.findall(r"\]\((docs/[\w.]+)", TEXTS["README.md"])
  assert sorted(set(TEXTS) - {"README.md"}) == sorted(set(linked))


def test_the_readme_is_short():
  text = TEXTS["README.md"]
  assert len(text.splitlines()) <= MAX_README_LINES
  assert len(table(text, "| data | ")) - 1 <= MAX_README_RESULTS


def test_results_of_the_readme_are_those_of_the_results_page():
  cells = {
    numbers
    for row in table(TEXTS["README.md"], "| data | ")[1:]
    for cell in row
    for numbers in re.findall(r"0\.\d{3} \([^)]*\)", cell)
  }
  assert cells and [each for each in cells if each not in TEXTS["docs/results.md"]] == []


@pytest.mark.slow
def test_python_examples_can_be_parsed():
  blocks = re.findall(r"```python\n(.*?)```", EVERYTHING, re.DOTALL)
  assert blocks and all(ast.parse(block) for block in blocks)


def test_files_that_the_docs_name_exist():
  named = re.findall(r"(?<![\w/])(?:configs|notebooks|tl_app|tests)/[\w/]+\.\w+", EVERYTHING)
  assert named and [name for name in named if not (ROOT / name).exists() and "/X." not in name] == []


def test_the_architecture_page_lists_every_package_and_module_of_the_root():
  text = TEXTS["docs/architecture.md"]
  packages = {path.parent.name for path in (ROOT / "tl_app").glob("*/__init__.py")}
  assert {row[0].strip("`") for row in table(text, "| package | ")[1:]} == packages
  assert {path.stem for path in (ROOT / "tl_app").glob("*.py")} - COMMANDS == {"__init__", "__main__"}
  assert "\nThe root has the entry points and no other module.\n" in text


def test_extras_that_the_docs_name_exist():
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  named = set(re.findall(r"pip install -e '\.\[(\w+)\]'", EVERYTHING))
  assert named and named <= set(setup["options.extras_require"])


@pytest.mark.parametrize("page", docs_tables.TABLES)
def test_generated_tables_are_the_codes(page):
  rows = docs_tables.TABLES[page]()
  assert docs_tables.markdown(rows) in TEXTS[page], "run python -m tests.docs_tables"
  assert docs_tables.replaced(TEXTS[page], rows) == TEXTS[page]


@pytest.mark.slow
def test_the_page_of_flags_is_the_codes():
  assert docs_tables.flags_page() == TEXTS[docs_tables.FLAGS_PAGE], "run python -m tests.docs_tables"


@pytest.mark.parametrize(
  "flag", ["recipe", "task", "strategy", "long_text", "pair_encoding", "augment", "imbalance", "frozen_engine"]
)
def test_tables_of_choices_are_whole(flag):
  home = {"recipe": "README.md", "task": "docs/tasks.md", "augment": "docs/recipes.md", "imbalance": "docs/recipes.md"}
  home |= {"long_text": "docs/text.md", "pair_encoding": "docs/text.md"}
  rows = table(TEXTS[home.get(flag, "docs/performance.md")], f"| `--{flag}` | ")[1:]
  choices = list(config_lib.FIELDS[flag].metadata["choices"])
  listed = [re.match(r"`(\w+)`", row[0])[1] for row in rows]
  assert sorted(listed) == sorted(choice for choice in choices if (flag, choice) != ("task", "auto"))
  if flag != "task":
    assert [row[0].split("`")[1] for row in rows if "(default)" in row[0]] == [config_lib.FIELDS[flag].default]
  if flag == "recipe":
    assert set(choices) == set(recipes.RECIPES)


@pytest.mark.slow
def test_messages_of_the_troubleshooting_page_are_the_codes():
  strings = {text for path in (ROOT / "tl_app").rglob("*.py") for text in _strings(path)}
  rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \|$", TEXTS["docs/troubleshooting.md"], re.MULTILINE)
  assert len(rows) >= 20
  unknown = [row for row in rows if not any(_is_form(row.split(".."), text) for text in strings)]
  assert unknown == []


def _is_form(parts, text):
  """Returns whether a string has these parts, in this order."""
  return all(part in text for part in parts) and re.search(".*?".join(map(re.escape, parts)), text)


def _strings(path):
  """Yields every string of a module, the values of an f-string as "{}"."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.JoinedStr):
      yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value.replace("\n", " ")
