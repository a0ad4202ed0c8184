"""Flags from dataclass fields, and the frame of every entry point: parsing, exit codes, one line per failure."""

import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
import signal
import sys
import tempfile
import textwrap

from absl import flags

from tl_app import config as config_lib
from tl_app.errors import RunFailed, UserError

FLAGS = flags.FLAGS
# Seconds until an interruption that nothing came of is repeated.
AGAIN = 10
_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_boolean}


def define(names=None):
  """Defines a flag for each field of `Config` (or the named ones)."""
  for name in names or config_lib.FIELDS:
    field = config_lib.FIELDS[name]
    text = field.metadata["help"]
    if field.metadata["choices"]:
      parser = _Choice(name, field.metadata["choices"])
      flags.DEFINE(parser, name, field.default, text, serializer=flags.ArgumentSerializer())
    elif field.metadata["word"]:
      parser = _IntegerOrWord(field.metadata["word"])
      flags.DEFINE(parser, name, field.default, text, serializer=flags.ArgumentSerializer())
    else:
      _DEFINE[config_lib.TYPES[name]](name, field.default, text)


def define_run():
  """Defines every flag that a run is made of: the fields of `Config`, and --config."""
  define()
  flags.DEFINE_string("config", "", "A config.json of an earlier run; flags that are given override it.")


def config_from_flags():
  """Returns the validated `Config` of the command line."""
  config = config_lib.Config()
  path = FLAGS.config
  if path:
    if not pathlib.Path(path).is_file():
      raise UserError(f"--config={path} is not a file")
    config = config_lib.from_json(pathlib.Path(path).read_text(encoding="utf-8", errors="replace"), path)
  config = dataclasses.replace(config, **given())
  config_lib.validate(config)
  return config


def given(names=None):
  """Returns {name: value} of the `Config` flags that were given on the command line or in a flagfile."""
  return {name: FLAGS[name].value for name in names or config_lib.FIELDS if name in FLAGS and FLAGS[name].present}


def need(*names):
  """Raises `UserError` for the first of the named flags that is empty."""
  for name in names:
    if not FLAGS[name].value:
      raise UserError(f"--{name} is needed: {FLAGS[name].help}")


def run(main, description):
  """Parses the command line, calls `main()`, and exits: 0 done, 1 the run failed, 2 the user must change something.

  Args:
    main: function of no arguments.
    description: what the command does; the first lines of `--help`.
  """
  flags.DEFINE_boolean("help", False, "Show this text.", short_name="h")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  logging.basicConfig(format="%(message)s", stream=sys.stderr)
  logging.getLogger("tl_app").setLevel(logging.INFO)
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
    # A shell lets what it runs in the background ignore the first of them.
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, _interrupt)
  sys.exit(_exit_code(main, description))


def start_tensorflow():
  """Imports TensorFlow without the lines that its C++ parts print at every start, whatever the log level."""
  sys.stderr.flush()
  with tempfile.TemporaryFile() as said:
    stderr = os.dup(2)
    os.dup2(said.fileno(), 2)
    try:
      import tensorflow  # noqa: F401
    except Exception:
      said.seek(0)
      os.write(stderr, said.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)


def progress():
  """Returns a context in which what is printed goes to standard error: standard output is for results."""
  return contextlib.redirect_stdout(sys.stderr)


def _interrupt(signum, frame):
  # Python drops what is raised within a destructor, of which TensorFlow has many.
  signal.alarm(AGAIN)
  raise KeyboardInterrupt


def _exit_code(main, description):
  try:
    rest = _parse()
    if FLAGS["help"].value:
      print(help_text(description))
      return 0
    if rest:
      raise UserError(f"{rest[0]!r} is not a flag: flags look like --name=value")
    main()
  except UserError as error:
    return _say(error, 2)
  except RunFailed as error:
    return _say(error, 1)
  except BrokenPipeError:
    # The reader of a pipe (`| head`) had enough; what is still buffered must not raise again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except KeyboardInterrupt:
    signal.alarm(0)
    return _say("interrupted; the same command starts the run again", 130)
  except Exception as error:
    line = _about_the_machine(error)
    if not line:
      raise
    return _say(line, 2)
  return 0


def _parse():
  try:
    return FLAGS(sys.argv)[1:]
  except UnicodeDecodeError:
    raise UserError("--flagfile is not a text file in UTF-8: it holds one --name=value a line") from None
  except flags.UnrecognizedFlagError as error:
    renamed = config_lib.renamed_flag(error.flagname, str(error.flagvalue).partition("=")[2])
    raise UserError(renamed or str(error)) from None
  except flags.Error as error:
    raise UserError(str(error).removeprefix("ERROR:: ")) from None


def _about_the_machine(error):
  """Returns what to say of a full disk, full memory, or a path that cannot be used; "" for anything else: a bug."""
  text, path = str(error), getattr(error, "filename", None)
  # HDF5 and TensorFlow have errors of their own for a full disk, with the system's words in their text.
  if os.strerror(errno.ENOSPC) in text or getattr(error, "errno", None) == errno.EDQUOT:
    return f"no space is left on the disk{f' for {path}' if path else ''}: free some, or choose another directory"
  # TensorFlow's own, by its name: it is not imported where its error cannot have come from.
  if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError" or "OOM when" in text:
    return "out of memory: take --batch_size=auto, or lower --max_length or --image_size"
  if isinstance(error, OSError) and path is not None:
    return f"{path}: {error.strerror}; choose another path, or change its permissions"
  return ""


def _say(message, code):
  line = " ".join(str(message).split())
  print(f"tl_app: {line}", file=sys.stderr, flush=True)
  return code


def help_text(description):
  """Returns the description and every flag of this command with its default, in the order of definition."""
  lines = [description.strip(), "", "Flags (also from a file: --flagfile=FILE):", ""]
  order = {name: index for index, name in enumerate(config_lib.FIELDS)}
  own = [flag for flag in FLAGS.get_flags_for_module(__name__) + _main_flags() if flag.name != "help"]
  for flag in sorted({flag.name: flag for flag in own}.values(), key=lambda flag: order.get(flag.name, -1)):
    default = "" if flag.default in ("", None) else f" [{flag.default_as_str.strip(chr(39))}]"
    choices = getattr(flag.parser, "enum_values", None)
    kind = "|".join(choices) if choices else flag.flag_type()
    usage = f"--[no]{flag.name}" if kind == "bool" else f"--{flag.name}={kind}"
    lines.append(f"  {usage}{default}")
    lines += textwrap.wrap(
      flag.help.removeprefix(f"<{kind}>: "), 100, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
  return "\n".join(lines)


def _main_flags():
  return FLAGS.get_flags_for_module("__main__") + FLAGS.get_flags_for_module(sys.argv[0])


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
