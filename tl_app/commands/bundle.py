"""Downloads all that a run needs and puts it into one archive."""

import pathlib
from collections.abc import Sequence

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.assets.locks import Download
from tl_app.commands import default_backbone
from tl_app.config import Config
from tl_app.data.readers import sources
from tl_app.errors.counts import number_of


def bundle(config: Config, output: str | pathlib.Path) -> tuple[list[Download], list[str]]:
  """Downloads all that a run needs, or finds it in the cache, and writes the archive.

  The backbone is loaded once, because its library decides which files it reads. Local data need not be there, unless
  they decide which backbone is the default.

  Args:
    config: the `Config` of the run.
    output: path of the archive; of its lock.json alone if its name ends with ".json".

  Returns:
    (the downloads, "--flag=value" of the local data, which the archive does not hold).

  Raises:
    UserError: a download is not to be had, or `output` cannot be written.
  """
  assets = Assets.of(config)
  local = sources.download(config, assets)
  if not config.backbone:
    config = default_backbone.named(config, labelled=False)
  spec = backbones.resolve(config.backbone)
  backbones.download(spec, assets, config)
  downloads = assets.write_bundle(pathlib.Path(output))
  for name in ("backbone", "preprocessor"):
    value = getattr(config, name)
    if value and not backbones.is_known(value) and pathlib.Path(value).exists():
      local.append(f"--{name}={value}")
  return downloads, local


def text(output: str, downloads: Sequence[Download], local: Sequence[str]) -> str:
  """Returns the lines about an archive: a line for each download, its size, and what it does not hold."""
  rows = [(d.kind, d.name, f"{len(d.files):,}", f"{d.size / 1e6:.1f}", d.licence) for d in downloads]
  titles = ("kind", "source", "files", "MB", "licence")
  widths = [max(map(len, column)) for column in zip(titles, *rows)]
  table = (titles, *rows) if rows else ()
  lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]
  files, size = sum(len(d.files) for d in downloads), sum(d.size for d in downloads) / 1e6
  lines.append(f"{output}: {number_of(len(downloads), 'download')}, {number_of(files, 'file')}, {size:.1f} MB")
  if local:
    lines.append(f"not in it, because they are local: {', '.join(local)}; copy them too")
  return "\n".join(lines)
