"""`load`: the examples of --dataset, read by the reader of its form, checked, and joined with the extra data sets."""

import dataclasses
import unicodedata

import numpy as np

from tl_app import tasks
from tl_app.assets import Assets
from tl_app.config import Config, rules
from tl_app.data import corrections, modalities
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.data.readers import folders, forms, starters, table_columns, tables, tfds, tfrecord
from tl_app.data.readers import verify as verify_lib
from tl_app.data.readers.rows import Raw, Row
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.tasks import label_names


def load(config: Config, assets: Assets, verify=None, known=frozenset()) -> Examples:
  """Returns the `Examples` of --dataset, with those of --validation_dataset and --test_dataset after them.

  An extra data set that has splits itself gives its part of that name; it takes the place of the part that --dataset
  has, and its ids begin with "validation_dataset:" or "test_dataset:".

  Args:
    config: `Config`.
    assets: `Assets`: the fetcher of starter sets; images out of TFDS and compressed TFRecord files are kept in
      its `root`.
    verify: callable, encoded image bytes -> None, or the reason why training could not decode them. Default: the
      decoder that training uses.
    known: content hashes of images that an earlier run has decoded: these are read and hashed only, like those that
      the `DecodedImageIndex` has.

  Raises:
    UserError: what is named does not exist or cannot be read; or an example is bad under --on_bad_example=fail.
  """
  rules.require(rules.columns_need_a_table(config))
  examples = _load_one(config.dataset, "dataset", config, assets, verify, known)
  for split in ("validation", "test"):
    flag = f"{split}_dataset"
    if getattr(config, flag):
      extra = _load_one(getattr(config, flag), flag, config, assets, verify, known)
      if extra.source == config.dataset and not any(extra.splits):
        raise UserError(f"--{flag}={extra.source} is --dataset itself: remove it, and {split} examples are sampled")
      examples = _with_split(examples, extra, split, flag)
  labels, notes = label_names.resolve(examples.labels, config.data, examples.single_texts())
  examples = dataclasses.replace(examples, labels=strings(labels), notes=[*examples.notes, *notes], classes=None)
  if not config.corrections:
    return examples
  return corrections.apply(examples, config.corrections, tasks.choose(config, examples)[0])


def _load_one(name, flag, config, assets, verify, known):
  raw = _read(name, flag, config, assets)
  if any(modalities.of(name).is_decoded for name in raw.columns.values()) and verify is None:
    known |= DecodedImageIndex(assets.root).hashes()
  rows, hashes, bad = verify_lib.check(raw, verify, known)
  total = len(rows) + len(bad)
  if bad and config.on_bad_example == "fail":
    count = "all" if len(bad) == total > 1 else f"{len(bad):,} of"
    verb = "is" if len(bad) == 1 else "are"
    skip = ", or pass --on_bad_example=skip" if rows else ""
    advice = f": fix or remove {'it' if len(bad) == 1 else 'them'}{skip}" if rows or total == 1 else ""
    raise UserError(f"--{flag}={name}: {bad[0][0]}: {bad[0][1]} ({count} {total:,} examples {verb} bad){advice}")
  if not rows:
    fault = f": all {total:,} are bad, e.g. {bad[0][0]}: {bad[0][1]}" if bad else f"; --{flag} takes: {forms.FORMS}"
    raise UserError(f"--{flag}={name} has no usable example{fault}")
  labels, names = [_label(row) for row in rows], table_columns.of_slices(config.data)
  raw.notes += _lost_classes(raw, labels, config)
  return Examples(
    ids=strings([row.id for row in rows]),
    inputs=Inputs.from_rows(raw.columns, (row.values for row in rows)),
    labels=strings(labels),
    hashes=strings(hashes),
    splits=strings([row.split for row in rows]),
    skipped=[{"id": id, "reason": reason} for id, reason in bad],
    source=name,
    notes=raw.notes,
    groups=strings([row.group for row in rows]) if config.group_column else None,
    times=strings([row.time for row in rows]) if config.time_column else None,
    metadata={name: strings([row.metadata[i] for row in rows]) for i, name in enumerate(names)},
  )


def _lost_classes(raw, labels, config):
  """Returns a note about the classes of which every example is bad, as a list; amounts, lists and tags are none."""
  lost = sorted({_label(row) for row in raw.rows if row.label} - set(labels) - {""})
  if not lost:
    return []
  task = config.task if config.task != "auto" else tasks.guess(config.data, set(labels))[0]
  if not tasks.TASKS[task].single_label:
    return []
  return [f"classes without a usable example: {len(lost):,}, e.g. {', '.join(map(repr, lost[:10]))}"]


def _label(row):
  """Returns the label of a row. Equal labels are equal strings, whether their accents are composed or not."""
  return unicodedata.normalize("NFC", row.label.strip())


def _with_split(examples, extra, split, flag):
  """Returns `examples` with its `split` replaced by that of `extra` (all of it, where `extra` has no splits)."""
  if extra.inputs.modalities != examples.inputs.modalities:
    holds, wanted = (modalities.of(data.modality).plural for data in (extra, examples))
    raise UserError(f"--{flag}={extra.source} holds {holds}, --dataset holds {wanted}")
  if any(extra.splits):
    present = sorted(set(extra.splits))
    extra = extra.take(extra.splits == split)
    if not len(extra):
      raise UserError(f"--{flag}={extra.source} has splits ({', '.join(present)}) but none for {split}: name one file")
  notes = list(examples.notes) + extra.notes
  replaced = int(np.sum(examples.splits == split))
  if replaced:
    notes.append(
      f"--{flag} replaces the {split} split of --dataset={examples.source} ({number_of(replaced, 'example')})"
    )
    examples = examples.take(examples.splits != split)

  def joined(one, two):
    return None if one is None else strings([*one, *two])

  return Examples(
    ids=strings([*examples.ids, *(f"{flag}:{id}" for id in extra.ids)]),
    inputs=examples.inputs.joined(extra.inputs),
    labels=strings([*examples.labels, *extra.labels]),
    hashes=strings([*examples.hashes, *extra.hashes]),
    splits=strings([*examples.splits, *([split] * len(extra))]),
    skipped=examples.skipped + [{**bad, "id": f"{flag}:{bad['id']}"} for bad in extra.skipped],
    source=f"{examples.source} {flag}={extra.source}",
    notes=notes,
    groups=joined(examples.groups, extra.groups),
    times=joined(examples.times, extra.times),
    metadata={name: strings([*values, *extra.metadata[name]]) for name, values in examples.metadata.items()},
  )


def unlabelled(name: str, flag: str, config: Config, assets: Assets) -> Raw:
  """Returns the unchecked `Raw` of a data set whose labels, if it has any, are not read; of any form but `texts:`.

  Args:
    name: the data set.
    flag: the flag that names it.
    config: the `Config`.
    assets: the `Assets`.

  Raises:
    UserError: what is named does not exist or cannot be read.
  """
  form, rest = forms.parse(name, flag)
  if form == "images":
    return folders.unlabelled(rest, f"--{flag}={name}")
  return _read(name, flag, table_columns.without_labels(config), assets)


def download(config: Config, assets: Assets) -> list[str]:
  """Downloads the data sets of a run that are not local files.

  Args:
    config: the `Config`.
    assets: the `Assets`, which record what there is.

  Returns:
    "--flag=value" of the data sets that are local files.

  Raises:
    UserError: a name is of no known form, or a data set cannot be had.
  """
  local = []
  for flag in ("dataset", "validation_dataset", "test_dataset", "probe_dataset", "unlabelled_dataset", "ood_dataset"):
    name = getattr(config, flag)
    if not name:
      continue
    form, rest = forms.parse(name, flag)
    if form == "movie_reviews":
      starters.movie_reviews_archive(assets)
    elif form == "tfds":
      tfds.prepared(rest, f"--{flag}={name}", config.data, assets)
    elif form not in starters.STARTERS:
      local.append(f"--{flag}={name}")
  return local


def _starter(modality, rows):
  return Raw({modality: modality}, [Row(id, (value,), label) for id, value, label in rows])


def _read(name, flag, config, assets):
  """Returns the `Raw` of one data set name."""
  form, rest = forms.parse(name, flag)
  if form == "movie_reviews":
    return _starter("text", starters.movie_reviews(assets))
  if form == "digits":
    return _starter("image", starters.digits())
  what = f"--{flag}={name}"
  if form == "texts":
    raise UserError(f"{what} has no labels, which training needs: it is for python -m tl_app.pretrain")
  if form == "images":
    return folders.read(rest, what)
  if form == "table":
    return tables.read(rest, what, config.data, table_columns.of_splits(config), assets)
  if form == "tfrecord":
    return tfrecord.read(rest, what, config.data, assets)
  return tfds.read(rest, what, config.data, assets)
