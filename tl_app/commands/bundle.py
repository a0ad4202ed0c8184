"""Downloads all that a run needs and puts it into one archive."""

import pathlib
from collections.abc import Sequence

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.assets.locks import Download
from tl_app.commands import default_backbone
from tl_app.config import Config
from tl_app.data.readers import sources


def bundle(config: Config, output: str | pathlib.Path) -> tuple[list[Download], list[str]]:
  """Downloads all that a run needs, or finds it in the cache, and writes the archive.

  The backbone is loaded once, because its library decides which files it reads.

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
  if config.dataset:
    config = default_backbone.named(config, labelled=False)
  spec = backbones.resolve(config.backbone)
  backbones.download(spec, assets, config)
  downloads = assets.write_bundle(pathlib.Path(output))
  if not any(use.source == spec.handle for use in downloads) and pathlib.Path(config.backbone).exists():
    local.append(f"--backbone={config.backbone}")
  return downloads, local


def text(output: str, downloads: Sequence[Download], local: Sequence[str]) -> str:
  """Returns the lines about an archive: a line for each download, its size, and what it does not hold."""
  rows = [(d.kind, d.source, f"{len(d.files):,}", f"{d.size / 1e6:.1f}", d.licence) for d in downloads]
  titles = ("kind", "source", "files", "MB", "licence")
  widths = [max(map(len, column)) for column in zip(titles, *rows)]
  lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (titles, *rows)]
  size = pathlib.Path(output).stat().st_size / 1e6
  lines.append(f"{output}: {len(downloads)} downloads, {sum(len(d.files) for d in downloads):,} files, {size:.1f} MB")
  if local:
    lines.append(f"not in it, because they are local: {', '.join(local)}; copy them too")
  return "\n".join(lines)
