"""~ is the home directory, and $NAME an environment variable, in every flag that is a path."""

import ast
import dataclasses
import pathlib

import pytest

from tests import import_graph
from tl_app import config, files, workdir
from tl_app.config import Config
from tl_app.config.paths import expanded
from tl_app.errors import UserError
from tl_app.files import nearby

# Flags of single commands that are paths.
OWN = {"model", "input", "output", "workdir", "fix", "flagged", "space"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setenv("FORM", "table:~")
  monkeypatch.chdir(tmp_path)
  return tmp_path / "home"


@pytest.mark.parametrize(
  ("value", "path"),
  [
    ("~/runs/x", "{}/runs/x"),
    ("~", "{}"),
    ("table:~/mails.csv", "table:{}/mails.csv"),
    ("images:~/p*/*", "images:{}/p*/*"),
    ("runs/~/x", "runs/~/x"),
    ("~no_such_user/x", "~no_such_user/x"),
    ("$HOME/runs", "{}/runs"),
    ("table:${HOME}/mails-$NOT_SET.csv", "table:{}/mails-$NOT_SET.csv"),
    ("$FORM/mails.csv", "table:{}/mails.csv"),
    ("hf://~/x", "hf://~/x"),
    ("file:///data/x", "/data/x"),
    ("table:file:///data/a%20b.csv", "table:/data/a b.csv"),
    ("a:b~c", "a:b~c"),
    (pathlib.Path("~/runs"), "{}/runs"),
    ("", ""),
    (3, 3),
  ],
)
def test_the_home_directory_is_put_in(home, value, path):
  assert expanded(value) == (path.format(home) if isinstance(path, str) else path)


@pytest.mark.parametrize(
  ("path", "hint"),
  [
    ("{}/Mails/a.csv", "; did you mean {}/mails/a.csv?"),
    ("{}/mails/a", "; did you mean {}/mails/a.csv?"),
    ("{}/mails/x/y.csv", "; there is no {}/mails/x either"),
    ("'{}/mails'", "; did you mean {}/mails?"),
    ("s3://bucket/a.csv", "; it is an address: download the files and give their path"),
    ("C:\\mails\\a.csv", "; it is a path of Windows: give the path on this system"),
    ("$NOT_SET/a.csv", "; the environment variable NOT_SET is not set"),
    ("nothing.csv", ", seen from {}"),
    ("{}/zzz", ""),
  ],
)
def test_a_missing_path_is_told_what_it_may_mean(tmp_path, path, hint):
  (tmp_path / "mails").mkdir()
  (tmp_path / "mails" / "a.csv").touch()
  assert nearby.hint(path.replace("{}", str(tmp_path))) == hint.replace("{}", str(tmp_path))


def test_every_field_that_is_a_path_is_marked():
  marked = {name for name, field in config.FIELDS.items() if field.metadata["path"]}
  places = {name for name, field in config.FIELDS.items() if "irectory" in field.metadata["help"]} - {
    "offline",
    "resume",
  }
  assert (
    places
    | {"dataset", "validation_dataset", "test_dataset", "probe_dataset", "unlabelled_dataset", "ood_dataset"}
    | {"preprocessor", "bundle", "lock", "costs", "corrections"}
    == marked
  )


def test_every_flag_of_one_command_that_is_a_path_is_marked():
  for name, path in import_graph.modules().items():
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if "." not in name else ():
      if isinstance(node, ast.Call) and ast.unparse(node.func) == "cli.flag":
        is_marked = any(keyword.arg == "path" for keyword in node.keywords)
        assert is_marked == (node.args[0].value in OWN), f"{name}: {ast.unparse(node)}"


def test_a_run_below_the_home_directory(home, tmp_path):
  flags = Config(workdir="~/runs/x", backbone="~/hub/bert", dataset="table:~/mails.csv")
  assert (flags.workdir, flags.backbone) == (f"{home}/runs/x", f"{home}/hub/bert")
  assert flags.dataset == f"table:{home}/mails.csv" and dataclasses.replace(flags, data_dir="~").data.data_dir == str(
    home
  )
  assert config.from_json('{"workdir": "~/x"}').workdir == f"{home}/x"
  with workdir.claim("~/runs/x", flags) as paths:
    assert paths.root == home / "runs/x"
    assert files.read_json(paths.config)["workdir"] == f"{home}/runs/x"
  with pytest.raises(UserError, match="holds no finished run"):
    workdir.open_run("~/runs/x")
  assert not (tmp_path / "~").exists()


def test_a_file_name_that_is_not_utf8_is_read_as_it_was_written(tmp_path):
  flags = Config(workdir=str(tmp_path / "run"), dataset="table:b\udce4nk.csv")
  with workdir.claim(flags.workdir, flags) as paths:
    text = paths.config.read_text(encoding="utf-8")
    assert '"table:b\\udce4nk.csv"' in text and config.from_json(text).dataset == flags.dataset
    files.write_json(tmp_path / "x.json", {"b\udce4nk.csv": "größe"})
  assert files.read_json(tmp_path / "x.json") == {"b\udce4nk.csv": "größe"}
