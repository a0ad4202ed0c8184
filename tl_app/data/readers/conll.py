"""`.conll`: a word a line with its tags in columns, an empty line between sentences."""

from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.tasks import tags

DOCUMENT = "-DOCSTART-"


def read(file, text):
  """Returns (column names, iterator of (first line, row)) of sentences.

  A row holds the words, the tags, and every column, spaces between.

  The names are "text" (the first column), "label" (the last one), and the columns by number, from "1". Columns are what
  tabs separate where a line has one, else white space. Lines of -DOCSTART- and comments (a # and a space, or a # alone
  on a line without tags) are passed over. A sentence with a fault becomes the reason as a str.

  Args:
    file: path, for messages.
    text: its content.

  Raises:
    UserError: no line has a word and a tag.
  """
  sentences = list(_sentences(text))
  width = max((len(fields) for sentence in sentences for _, fields in sentence), default=0)
  if width < 2:
    found = f"its lines have one column, e.g. line {sentences[0][0][0]}" if sentences else "it is empty"
    raise UserError(f"{file} is no table of tagged words ({found}): give a word and its tag a line, a tab between them")
  names = ["text", "label", *(str(number) for number in range(1, width + 1))]
  return names, ((sentence[0][0], _record(sentence, width)) for sentence in sentences)


def _sentences(text):
  """Yields [(line number, fields)] of each sentence."""
  sentence = []
  for number, line in enumerate(text.split("\n"), start=1):
    fields = [field.strip(" \r") for field in line.split("\t")] if "\t" in line else tags.words(line)
    if not any(fields) or fields[0] == DOCUMENT:
      if sentence:
        yield sentence
      sentence = []
    elif not _is_comment(line, fields):
      sentence.append((number, fields))
  if sentence:
    yield sentence


def _is_comment(line, fields):
  """Whether it is a comment, "# id = 17", and no word "#" with its tag."""
  return line.startswith("# ") and "\t" not in line and not tags.is_tag(fields[-1])


def _record(sentence, width):
  """Returns the row of a sentence, or the reason why it is none."""
  for number, fields in sentence:
    if len(fields) != width:
      return f"line {number} has {number_of(len(fields), 'column')}, others have {width}"
    if not all(fields):
      return f"line {number} has an empty column"
    if not tags.is_tag(fields[-1]):
      return f"line {number}: {fields[-1]!r} is no tag: O, or B- and I- (E-, S-, L-, U-) with the type of the entity"
  columns = [tags.joined(column) for column in zip(*(fields for _, fields in sentence))]
  return [columns[0], columns[-1], *columns]
