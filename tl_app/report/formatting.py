"""Numbers, names and commands as people read them: in the terminal, in the report and in comparison.md."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence

from tl_app import config as config_lib
from tl_app.errors.counts import number_of

MISSING = "–"


def number(value: object) -> float:
  """Returns a number as float, NaN for anything else."""
  return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def decimals(value: object) -> str:
  """Returns a metric or a loss with three decimals; zero has no sign."""
  return f"{value:z.3f}" if math.isfinite(number(value)) else MISSING


def short(text: str) -> str:
  """Returns a number with many digits with three decimals, and another text as it is."""
  try:
    return decimals(float(text)) if "." in text and len(text) > 5 else text
  except ValueError:
    return text


def count(value: object) -> str:
  """Returns a whole number with thousands separators."""
  return f"{value:,.0f}" if math.isfinite(number(value)) else MISSING


def significant(value: object) -> str:
  """Returns a number with three significant digits."""
  return f"{value:.3g}" if math.isfinite(number(value)) else MISSING


def readable(value: object) -> str:
  """Returns a number with three decimals, from 1,000 on with none."""
  return count(value) if abs(number(value)) >= 1000 else decimals(value)


def interval(bounds: Sequence[float], sign: str = "") -> str:
  """Returns an interval, like "0.760 to 0.794"; `sign` "+" shows the signs."""
  return " to ".join(f"{bound:{sign}z.3f}" for bound in bounds)


def with_interval(values: Mapping, name: str, no_interval: str) -> str:
  """Returns a metric with its interval, like "0.777 (95 % interval 0.760 to 0.794)"; "" if it is missing.

  Args:
    values: metrics of a split, see `Metrics.compute_metrics`.
    name: key of the metric.
    no_interval: what stands in place of an interval that is None, see `Metrics`.
  """
  if values.get(name) is None:
    return ""
  key = f"{name}_ci95"
  note = f"95 % interval {interval(values[key])}" if values.get(key) else no_interval
  return f"{decimals(values[name])} ({note})" if key in values else decimals(values[name])


def duration(value: object) -> str:
  """Returns seconds, like "9.5 s", "1 min 1 s" or "2 h 5 min"."""
  seconds = number(value)
  if not math.isfinite(seconds):
    return MISSING
  if seconds < 10:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def plain(value: object) -> str:
  """Returns a value as text: strings as they are, lists of strings with commas, the rest as JSON."""
  if isinstance(value, list) and all(isinstance(item, str) for item in value):
    return ", ".join(value)
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def sentence(text: str) -> str:
  """Returns a text with a capital letter at its beginning."""
  return text[:1].upper() + text[1:]


def candidate(name: str) -> str:
  """Returns the key of a candidate in metrics.json as words, like "fine-tuned" for "fine_tuned"."""
  return {"fine_tuned": "fine-tuned", "tf_idf": "TF-IDF"}.get(name, name.replace("_", " "))


def measured(estimate: Mapping) -> str:
  """Returns where the answers of candidates come from, in words, see `Candidate.estimate`."""
  count = estimate.get("folds")
  return f"in cross-validation over {number_of(count, 'fold')}" if count else "on the validation split"


def what_is_read(preprocessing: Mapping) -> str:
  """Returns what is read of an example, in words, from "preprocessing" of plan.json."""
  if "image_size" in preprocessing:
    return "images of {0} x {0} pixels".format(preprocessing["image_size"])
  if not preprocessing.get("max_length"):
    return "texts of any length"
  told = f"at most {number_of(preprocessing['max_length'], 'token')} of a text"
  if "long_text" in preprocessing:
    windows = f", in at most {preprocessing['max_windows']} windows" if "max_windows" in preprocessing else ""
    told += f" (--long_text={preprocessing['long_text']}{windows})"
  if preprocessing.get("texts_cut"):
    told += f"; {preprocessing['texts_cut']:.1%} of the training texts are longer"
  # Pretraining does not count the tokens that are read.
  if preprocessing.get("texts_cut") and "tokens_read" in preprocessing:
    told += f", and {preprocessing['tokens_read']:.2%} of all tokens are read"
  return told


def given_flags(values: Mapping[str, object], but: Iterable[str] = ()) -> list[str]:
  """Returns the flags of a `Config`: one for each value that is not its default and not in `but`.

  Args:
    values: {field of `Config`: value}, as in config.json. A name that is no flag is passed over.
    but: names of flags that are not wanted.
  """
  flags = []
  for name, field in config_lib.FIELDS.items():
    if name in values and name not in but and values[name] != field.default:
      value = values[name]
      flags.append(f"--{'' if value else 'no'}{name}" if isinstance(value, bool) else f"--{name}={value}")
  return flags


def command(module: str, flags: Iterable[str]) -> str:
  """Returns a command line that can be pasted, like "python -m tl_app.train --backbone=..."."""
  return shlex.join(["python", "-m", module, *flags])
