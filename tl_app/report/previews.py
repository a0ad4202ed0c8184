"""What the report shows of examples: their texts, or thumbnails of their images."""

from tl_app.data import modalities
from tl_app.data.examples import Examples
from tl_app.report import predictions


def of(examples: Examples, ids: set[str]) -> dict[str, dict[str, str]]:
  """Returns {id: {"text": str} or {"image": data URI of a thumbnail}} of the examples with these ids.

  Args:
    examples: the `Examples`.
    ids: as a predictions file has them.
  """
  modality = modalities.of(examples.modality)
  rows = zip(map(predictions.written, examples.ids), examples.inputs.rows())
  return {id: modality.preview(row) for id, row in rows if id in ids}
