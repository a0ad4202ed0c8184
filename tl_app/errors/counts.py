"""Counts in messages, with the noun in the right number."""


def number_of(count: int, noun: str, plural: str = "") -> str:
  """Returns a number with its noun, like "1 class" and "1,200 classes".

  Args:
    count: the number.
    noun: what is counted, in the singular.
    plural: the plural; "" if it is the noun with an s.
  """
  return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
