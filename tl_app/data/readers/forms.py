"""The forms of --dataset: which there are, and the parts of a name in one of them."""

import os
import pathlib

from tl_app import config as configs
from tl_app.data import modalities
from tl_app.data.modalities import Modality
from tl_app.data.readers import starters, table_files
from tl_app.errors import UserError

# {form: modality} of the forms that have only one.
_MODALITIES = {"images": "image", "digits": "image", "movie_reviews": "text", "texts": "text"}
FORMS = f"{', '.join(starters.STARTERS)}, images:DIR, table:PATH, tfrecord:PATH, tfds:NAME[/CONFIG][:VERSION]"
_NEED_REST = ("images", "table", "tfrecord", "tfds", "texts")
# Words that users write for a form.
_OTHER_WORDS = {
  **dict.fromkeys(("csv", "tsv", "json", "jsonl", "parquet", "xlsx", "excel", "conll", "file", "tables"), "table"),
  **dict.fromkeys(("image", "folder", "folders", "dir", "directory", "imagefolder", "photos"), "images"),
}


def parse(name: str, flag: str) -> tuple[str, str]:
  """Returns (form, what follows the colon): ("table", "mails.csv"); of a starter set its name and "".

  Args:
    name: a data set as the flag gives it.
    flag: "dataset", "validation_dataset" or "test_dataset".

  Raises:
    UserError: there is no such form.
  """
  form, colon, rest = name.partition(":")
  if name in starters.STARTERS or (rest and form in _NEED_REST):
    return form, rest
  if colon and form in _NEED_REST:
    raise UserError(f"--{flag}={name} names nothing after the colon; --{flag} takes: {FORMS}")
  hint = _hint(name, form, rest)
  raise UserError(f"--{flag}={name} is not a data set that is known; it takes: {FORMS}{hint}")


def _hint(name, form, rest):
  """Returns "; did you mean table:mails.csv?" for a name without its form or with another word for it, or ""."""
  wanted = _OTHER_WORDS.get(form.lower(), "") or (form.lower() if form.lower() in _NEED_REST else "")
  if wanted:
    return f"; did you mean {wanted}:{rest or 'PATH'}?"
  if os.path.isdir(name):
    return f"; did you mean images:{name} or table:{name}?"
  if os.path.exists(name) or table_files.is_table(pathlib.Path(name)):
    return f"; did you mean table:{name}?"
  near = configs.suggestion(form, [*starters.STARTERS, *_NEED_REST])
  is_form = near.removeprefix("; did you mean ").removesuffix("?") in _NEED_REST
  return f"{near[:-1]}:{rest or 'PATH'}?" if is_form else near


def modality(form: str) -> Modality:
  """Returns the `Modality` of a form that has only one: "images", "texts", or the name of a starter set."""
  return modalities.of(_MODALITIES[form])
