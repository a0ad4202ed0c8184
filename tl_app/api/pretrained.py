"""`Pretrained`: a finished pretraining, as Python and notebooks use it."""

import pathlib

from tl_app import workdir as workdir_lib
from tl_app.api.run import Report, table


class Pretrained:
  """A finished pretraining, which `tl_app.pretrain_backbone` returns. A notebook shows its summary.

  Attributes:
    workdir: the directory, `pathlib.Path`.
    backbone: the directory of the pretrained backbone, str, a value of `backbone` of `tl_app.fit`.
  """

  def __init__(self, workdir: str | pathlib.Path):
    """Opens a pretraining.

    Args:
      workdir: its directory.
    """
    self._paths = workdir_lib.Workdir(pathlib.Path(workdir))
    self.workdir = self._paths.root
    self.backbone = str(self._paths.backbone)

  @property
  def metrics(self) -> dict:
    """The content of metrics.json: the held-out metrics before and after, those of the probe, times, .."""
    return workdir_lib.read(self._paths.metrics)

  @property
  def report(self) -> Report:
    """The report, one HTML page, which a notebook shows in a frame."""
    return Report(self._paths.report)

  def __repr__(self):
    return f"Pretrained({str(self.workdir)!r})"

  def __str__(self):
    from tl_app.report import summary

    return summary.pretraining_lines(self.metrics, self.workdir)

  def _repr_html_(self):
    from tl_app.report import summary

    return table([*summary.pretraining_rows(self.metrics), ("backbone", self.backbone)])
