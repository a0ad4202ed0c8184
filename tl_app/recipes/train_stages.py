"""--train_stages: which stages of a backbone train."""

import re

from tl_app.errors import UserError, suggestion
from tl_app.recipes.facts import Facts
from tl_app.recipes.phase import ALL, HEAD


def parse(text: str, facts: Facts, freeze_head: bool = False) -> tuple[tuple, str]:
  """Parses --train_stages.

  Args:
    text: "auto", "all", "none", "top:N", stage names separated by commas, or a regular expression over variable paths.
    facts: the `Facts`, for the stages of the backbone; `Facts.frozen` are those that "auto" does not train.
    freeze_head: whether the head keeps the values of the probe. By default it trains together with any stages.

  Returns:
    (names of the stages that train, from the input upwards, the head last; filter of their variables: "all", or the
    regular expression).

  Raises:
    UserError: neither a stage nor a variable matches, or freeze_head contradicts the text.
  """
  names, trainable_filter = _parse(text, facts)
  if not freeze_head:
    return names, trainable_filter
  if HEAD in _listed(text):
    raise UserError(f"--train_stages={text} names the head, which --freeze_head freezes: remove one of them")
  return names[:-1], trainable_filter


def _parse(text, facts):
  """Returns what `parse` does for a head that trains."""
  backbone = list(facts.stages)
  if not text.strip():
    raise UserError("--train_stages is empty: use auto, all, none, top:N, stage names or a regular expression")
  if text == "auto":
    return (*(name for name in backbone if name not in facts.frozen), HEAD), ALL
  if text in ("all", "none"):
    return (*(backbone if text == "all" else []), HEAD), ALL
  if re.fullmatch(r"top:\d+", text):
    return _top(int(text[4:]), text, facts), ALL
  wanted = _listed(text)
  if wanted and set(wanted) <= {*backbone, HEAD}:
    return (*(name for name in backbone if name in wanted), HEAD), ALL
  try:
    expression = re.compile(text)
  except re.error as error:
    raise UserError(f"--train_stages={text} is neither stage names nor a regular expression: {error}") from None
  matching = tuple(name for name, paths in facts.stages.items() if any(expression.search(path) for path in paths))
  if not matching:
    raise UserError(
      f"--train_stages={text} is no stage of this backbone ({', '.join([*backbone, HEAD])}), and no name of a variable "
      f"that can train matches it as a regular expression{_suggestion(wanted, [*backbone, HEAD])}"
    )
  return (*matching, HEAD), text


def _suggestion(wanted, names):
  """Returns "; did you mean X?" for the first of the wanted names that is none; layer_9 is not meant by layer_0."""
  unknown = next((name for name in wanted if name not in names), "")
  return suggestion(unknown, [name for name in names if re.sub(r"\d", "", name) != re.sub(r"\d", "", unknown)])


def _listed(text):
  return [name.strip() for name in text.split(",") if name.strip()]


def _top(count, text, facts):
  trainable = [name for name, paths in facts.stages.items() if paths]
  if count > len(trainable):
    raise UserError(
      f"--train_stages={text}, but the stages of this backbone that can train are {len(trainable)}: "
      f"{', '.join(trainable)}"
    )
  return (*trainable[len(trainable) - count :], HEAD)
