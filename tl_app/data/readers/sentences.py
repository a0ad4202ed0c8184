"""Tables with one word and one tag per row: their rows joined into sentences."""

import itertools
from collections.abc import Sequence

from tl_app.data.readers.rows import Row
from tl_app.errors import UserError
from tl_app.tasks import tags


def joined(words: Sequence[tuple[Row, str | None]], column: str) -> list[Row]:
  """Returns a row per sentence of rows with one word and one tag each.

  Args:
    words: of one file, in their order: the row of a word, and its cell of --sentence_column; an empty one continues the
      sentence.
    column: name of that column.

  Raises:
    UserError: the rows of a sentence do not follow each other.
  """
  rows, sentence_cells = [row for row, _ in words], [cell for _, cell in words]
  filled = list(itertools.accumulate(sentence_cells, lambda before, cell: cell if cell and cell.strip() else before))
  runs = [list(run) for _, run in itertools.groupby(zip(filled, rows), key=lambda pair: pair[0])]
  if len(runs) > 1 and len(runs) > len(rows) / 2 and len(runs) > 2 * len(set(filled)):
    raise UserError(
      f"--sentence_column={column}: the rows of a sentence do not follow each other: sort the table by sentence and "
      "word"
    )
  return [_sentence([row for _, row in run]) for run in runs]


def _sentence(rows):
  first = rows[0]
  bad = next((row for row in rows if row.reason), None)
  if bad is None:
    bad = next((row._replace(reason="it has no label") for row in rows if not (row.label and row.label.strip())), None)
  if bad is not None:
    return first._replace(label=None, reason=bad.reason if bad.id == first.id else f"{bad.id}: {bad.reason}")
  try:
    text = tags.joined([row.values[0] for row in rows])
  except ValueError as error:
    return first._replace(label=None, reason=str(error))
  # A type is one word, since spaces stand between the tags.
  return first._replace(values=(text,), label=" ".join("_".join(row.label.split()) for row in rows))
