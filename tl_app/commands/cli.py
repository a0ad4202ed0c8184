"""Flags from the fields of `Config`, and what all entry points share: parsing, help, exit codes, one line per error."""

import contextlib
import dataclasses
import errno
import importlib.util
import logging
import os
import pathlib
import re
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Sequence

from absl import flags

from tl_app import config as config_lib
from tl_app import terminal
from tl_app.config import rules
from tl_app.config.paths import expanded
from tl_app.errors import RunFailed, UserError, interruption

FLAGS = flags.FLAGS
# Names of flags that several commands define together.
ALL_FLAGS, PRETRAIN_FLAGS, EVALUATION_FLAGS = tuple(config_lib.FIELDS), rules.USED_BY_PRETRAIN, rules.EVALUATION_FLAGS
DOWNLOAD_FLAGS, LOADING_FLAGS, RELOADING_FLAGS = rules.DOWNLOAD_FLAGS, rules.LOADING_FLAGS, rules.RELOADING_FLAGS
INPUT_COLUMNS = rules.INPUT_COLUMNS
# Heading of the flags that only this command has. A command with more flags than `MANY` shows the common ones in
# `--help`, and all in `--helpfull`.
OWN = "This command"
MANY = 30
_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_boolean}
# {heading: names of the flags of the running command}.
_DEFINED = {heading: [] for heading in (OWN, *config_lib.GROUPS)}


def define(names: Iterable[str] | None = None, listed: Iterable[str] | None = None) -> None:
  """Defines a flag for each field of `Config` but those of pretraining, or for the named ones.

  Args:
    names: of the fields.
    listed: of those that the help shows; None for all.
  """
  for heading, group in config_lib.GROUPS.items():
    for field in dataclasses.fields(group):
      if field.name in names if names else heading != "Pretraining":
        _define_field(field)
        if listed is None or field.name in listed:
          _DEFINED[heading].append(field.name)


def _define_field(field):
  name, meta = field.name, field.metadata
  if meta["path"]:
    _define_path(name, field.default, meta["help"])
  elif meta["choices"] or meta["word"]:
    parser = _Choice(name, meta["choices"]) if meta["choices"] else _IntegerOrWord(meta["word"])
    flags.DEFINE(parser, name, field.default, meta["help"], serializer=flags.ArgumentSerializer())
  else:
    _DEFINE[config_lib.TYPES[name]](name, field.default, meta["help"])


def _define_path(name, default, help):
  flags.DEFINE(_Path(), name, default, help, serializer=flags.ArgumentSerializer())


def flag(
  name: str,
  default: str | float | bool | tuple,
  help: str,
  low: int | None = None,
  path: bool = False,
  choices: Sequence[str] = (),
) -> None:
  """Defines a flag that only this command has.

  Args:
    name: of the flag.
    default: its default, a text, a number or a boolean; () of a text that may be given several times.
    help: what it does.
    low: the smallest number that it takes.
    path: whether it is a path, in which ~ is the home directory.
    choices: the words that it takes; () for any text.
  """
  if path:
    _define_path(name, default, help)
  elif choices:
    flags.DEFINE(_Choice(name, choices), name, default, help, serializer=flags.ArgumentSerializer())
  elif isinstance(default, tuple):
    flags.DEFINE_multi_string(name, list(default), help)
    # absl adds a sentence to it.
    FLAGS[name].help = help
  elif isinstance(default, float):
    flags.DEFINE_float(name, default, help, lower_bound=low)
  elif isinstance(default, str):
    flags.DEFINE_string(name, default, help)
  elif isinstance(default, bool):
    flags.DEFINE_boolean(name, default, help)
  else:
    flags.DEFINE_integer(name, default, help, lower_bound=low)
  _DEFINED[OWN].append(name)


def define_run(names: Iterable[str] | None = None, listed: Iterable[str] | None = None) -> None:
  """Defines every flag of a run: the fields of `Config` as `define` does, and --config."""
  define(names, listed)
  _define_path("config", "", "config.json of an earlier run. Flags on the command line override it.")
  _DEFINED["Run"].append("config")


def config_from_flags(needed: Iterable[str] = ("workdir", "dataset")) -> config_lib.Config:
  """Returns the validated `Config` of the command line; the fields `needed` must be given."""
  config = config_lib.Config()
  path = FLAGS.config if "config" in FLAGS else ""
  if path:
    if not pathlib.Path(path).is_file():
      raise UserError(f"--config={path} is not a file")
    config = config_lib.from_json(pathlib.Path(path).read_text(encoding="utf-8", errors="replace"), path)
    # A file that others made must not decide that they are trusted.
    config = dataclasses.replace(config, trust_backbone=False)
  config = dataclasses.replace(config, **given())
  config_lib.validate(config, needed)
  return config


def given(names: Iterable[str] | None = None) -> dict:
  """Returns {name: value} of the `Config` flags that were given on the command line or in a flagfile."""
  return {name: FLAGS[name].value for name in names or config_lib.FIELDS if name in FLAGS and FLAGS[name].present}


def texts() -> list[list[str]]:
  """Returns the values of --text and those of --text_pair; [] for one that is not given."""
  return [list(FLAGS[name].value or ()) for name in ("text", "text_pair")]


def inputs() -> str | list:
  """Returns what is to be answered: texts, pairs of texts, or the value of --input."""
  firsts, others = texts()
  return [list(pair) for pair in zip(firsts, others)] if others else firsts or FLAGS.input


def need(*names: str) -> None:
  """Raises `UserError` for the first of the named flags that is empty."""
  for name in names:
    if not FLAGS[name].value:
      raise UserError(f"--{name} is needed: {FLAGS[name].help}")


def need_packages(extra: str, *names: str) -> None:
  """Raises `UserError` for the first of the named packages that is not installed.

  Args:
    extra: of tl_app, which brings them.
    names: of the packages, as they are imported.
  """
  for name in names:
    if importlib.util.find_spec(name) is None:
      raise UserError(f"this command needs {name}: pip install 'tl_app[{extra}]'")


def run(
  main: Callable[[], object],
  description: str,
  define_flags: Callable[[], object] = lambda: None,
  continues: bool = False,
) -> None:
  """Parses the command line, calls `main()`, and exits: 0 done, 1 the run failed, 2 the user must change something.

  A process that SIGINT or SIGTERM ends has the exit code 130 or 143.

  Args:
    main: function of no arguments.
    description: what the command does; the first lines of `--help`.
    define_flags: defines the flags of the command. An entry point that is only imported defines none.
    continues: whether the same command continues what was interrupted.
  """
  for names in _DEFINED.values():
    names.clear()
  define_flags()
  flags.DEFINE_boolean("help", False, "Show the common flags.", short_name="h")
  flags.DEFINE_boolean("helpfull", False, "Show all flags.")
  terminal.escape_names()
  logging.basicConfig(format="%(message)s", handlers=[terminal.Handler()])
  logging.getLogger("tl_app").setLevel(logging.INFO)
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
    # Programs that a shell runs in the background ignore the first of them.
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, interruption.request)
  sys.exit(_exit_code(main, description, continues))


def start_tensorflow() -> None:
  """Imports TensorFlow without the lines that its C++ parts print at every start, whatever the log level."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  sys.stderr.flush()
  with tempfile.TemporaryFile() as printed:
    stderr = os.dup(2)
    os.dup2(printed.fileno(), 2)
    try:
      import tensorflow  # noqa: F401
    except Exception:
      printed.seek(0)
      os.write(stderr, printed.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
  # Its warnings, for instance about functions that are traced again, are about code and not about a run.
  logging.getLogger("tensorflow").setLevel(logging.ERROR)


def progress():
  """Returns a context in which prints go to standard error; standard output is for results."""
  return contextlib.redirect_stdout(sys.stderr)


def print_results(lines: str, indent: int = 2) -> None:
  """Prints the lines of a result, see `terminal.print_results`."""
  terminal.print_results(lines, indent)


def _exit_code(main, description, continues):
  try:
    rest = _parse()
    if FLAGS["help"].value or FLAGS["helpfull"].value:
      print(help_text(description, bool(FLAGS["helpfull"].value)))
      return 0
    if rest:
      raise UserError(f"{rest[0]!r} is not a flag: flags have the form --name=value")
    main()
  except UserError as error:
    return _report(error, 2)
  except RunFailed as error:
    return _report(error, 1)
  except BrokenPipeError:
    # The reader of a pipe (`| head`) has closed it; the buffered rest must not raise again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except KeyboardInterrupt:
    signal.alarm(0)
    does = "continues" if continues else "starts the run again"
    return _report(f"interrupted; the same command {does}", interruption.exit_code())
  except Exception as error:
    line = machine_error(error)
    if not line:
      raise
    return _report(line, 2)
  return 0


def _parse():
  try:
    return FLAGS(sys.argv)[1:]
  except UnicodeDecodeError:
    raise UserError("--flagfile is not a text file in UTF-8: it has one --name=value per line") from None
  except flags.UnrecognizedFlagError as error:
    renamed = config_lib.renamed_flag(error.flagname, str(error.flagvalue).partition("=")[2])
    names = [name for names in _DEFINED.values() for name in names]
    hint = config_lib.suggestion(error.flagname, [*names, "flagfile", "help", "helpfull"]).replace("mean ", "mean --")
    raise UserError(
      renamed or f"--{error.flagname} is not a flag of this command; --helpfull lists them{hint}"
    ) from None
  except (flags.Error, ValueError) as error:
    # A value after --noNAME= is a ValueError.
    raise UserError(_refused(str(error).removeprefix("ERROR:: "))) from None


def _refused(message):
  """Returns what absl says of a value, in the words of users: some of its own are those of Python."""
  found = re.match(r"flag --((\w+)=.*?): (.*)", message, re.DOTALL)
  if not found:
    return message
  given, name, reason = found.groups()
  if "Non-boolean argument" in reason:
    return f"--{given}: give --{name} or --no{name}, without a value"
  for of_python, kind in (("invalid literal for int", "a whole number"), ("could not convert string", "a number")):
    if of_python in reason:
      return f"--{given} is not {kind}"
  return message.removeprefix("flag ")


def machine_error(error: Exception) -> str:
  """Returns one line about a full disk, full memory, or a path that cannot be used; "" for other errors: bugs."""
  text, path = str(error), getattr(error, "filename", None)
  # HDF5 and TensorFlow raise their own errors for a full disk, which contain the system's message.
  if os.strerror(errno.ENOSPC) in text or getattr(error, "errno", None) == errno.EDQUOT:
    # TensorFlow names the path in the text only.
    path = path or next(iter(re.findall(r"(?<![\w.])/[^\s;:,'\"]+", text)), "")
    where = f" for {path}" if path else ""
    temporary = os.environ.get("TMPDIR") or "/tmp"
    if path and pathlib.Path(temporary) in pathlib.Path(path).parents:
      return f"no space is left on the disk{where}: free some, or set TMPDIR to another directory than {temporary}"
    return f"no space is left on the disk{where}: free some, or choose another directory"
  # By name, because TensorFlow may not have been imported.
  exhausted = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
  if exhausted or "OOM when" in text or getattr(error, "errno", None) == errno.ENOMEM:
    return "out of memory: use --batch_size=auto, or lower --max_length or --image_size"
  if getattr(error, "errno", None) == errno.EFBIG:
    return f"{path or 'a file'} is larger than the file system or `ulimit -f` allows: choose another directory"
  if getattr(error, "errno", None) == errno.EAGAIN or "can't start new thread" in text:
    return "the limit of processes and threads is reached (`ulimit -u`): end other programs, or raise it"
  if isinstance(error, OSError) and path is not None:
    return f"{path}: {error.strerror}; choose another path, or change its permissions"
  return ""


def _report(message, code):
  line = " ".join(str(message).split())
  print(terminal.fitted(f"tl_app: {terminal.speaker()}{line}", sys.stderr), file=sys.stderr, flush=True)
  return code


def help_text(description: str, full: bool = False) -> str:
  """Returns the description and the flags of this command with their defaults, under headings.

  Args:
    description: what the command does.
    full: whether all flags are listed where there are many.
  """
  count = sum(map(len, _DEFINED.values()))
  common = not full and count > MANY
  lines = [description.strip(), "", "Flags (also from a file of flags: --flagfile=FILE)"]
  if common:
    lines[-1] += f". The common ones; --helpfull lists all {count}"
  for heading, names in _DEFINED.items():
    shown = [name for name in names if not common or heading == OWN or _is_common(name)]
    if shown:
      lines += ["", f"{heading}:", *(line for name in shown for line in _help_lines(FLAGS[name]))]
  return "\n".join(lines)


def own_flags() -> list[dict[str, str]]:
  """Returns "name", "values", "default" and "help" of the flags that only this command has, as text for the docs."""
  return [_described(FLAGS[name]) for name in _DEFINED[OWN]]


def _is_common(name):
  return name in config_lib.FIELDS and config_lib.FIELDS[name].metadata["common"]


def _described(flag):
  choices = getattr(flag.parser, "enum_values", None)
  values = "|".join(choices) if choices else flag.flag_type().removeprefix("multi ")
  default = "" if flag.default in ("", None, []) else flag.default_as_str.strip("'")
  return {"name": flag.name, "values": values, "default": default, "help": flag.help.removeprefix(f"<{values}>: ")}


def _help_lines(flag):
  about = _described(flag)
  usage = f"--[no]{flag.name}" if about["values"] == "bool" else f"--{flag.name}={about['values']}"
  yield f"  {usage}" + (f" [{about['default']}]" if about["default"] else "")
  yield from textwrap.wrap(about["help"], 110, initial_indent=" " * 6, subsequent_indent=" " * 6)


class _Path(flags.ArgumentParser):
  """A path, or a name of something that may be a path."""

  def parse(self, argument):
    """Returns the text with the home directory in place of ~."""
    return expanded(argument)

  def flag_type(self):
    """Returns what help says of the values."""
    return "string"


class _Choice(flags.EnumParser):
  """One of several words. A word with a new name is an error that gives the new one."""

  def __init__(self, name, choices):
    super().__init__(choices)
    self._name = name

  def parse(self, argument):
    """Returns the word."""
    renamed = config_lib.renamed_value(self._name, argument)
    if renamed:
      raise ValueError(renamed)
    if argument not in self.enum_values:
      hint = config_lib.suggestion(argument, self.enum_values)
      raise ValueError(f"value should be one of <{'|'.join(self.enum_values)}>{hint}")
    return super().parse(argument)


class _IntegerOrWord(flags.IntegerParser):
  """An integer, or one word."""

  def __init__(self, word):
    super().__init__()
    self._word = word

  def parse(self, argument):
    """Returns the integer, or the word."""
    return argument if argument == self._word else super().parse(argument)

  def flag_type(self):
    """Returns what help says of the values."""
    return f"int|{self._word}"
