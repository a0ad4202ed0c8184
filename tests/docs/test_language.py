"""The repository is written in plain English: see `tests/language.py` for the words that are refused."""

import pytest

from tests import language

# Directories and files that still have such words; this list only gets shorter.
NOT_YET = (
  "tests/backbones/",
  "tests/benchmarks/",
  "tests/commands/",
  "tests/compute/",
  "tests/features/",
  "tests/model/",
  "tests/recipes/",
  "tests/test_cli.py",
  "tests/training/",
  "tl_app/backbones/",
  "tl_app/commands/",
  "tl_app/compute/",
  "tl_app/features/",
  "tl_app/model/",
  "tl_app/preprocessing/",
  "tl_app/recipes/",
  "tl_app/training/",
)


def _not_yet(name):
  return any(name == entry or (entry.endswith("/") and name.startswith(entry)) for entry in NOT_YET)


def test_the_repository_is_in_plain_english():
  found = [
    f"{name}:{number}: {word!r}: write {better}"
    for name in language.files()
    if not _not_yet(name)
    for number, word, better in language.findings(name)
  ]
  assert not found, "\n".join(found)


@pytest.mark.parametrize("entry", NOT_YET)
def test_what_is_clean_is_not_in_the_list_any_more(entry):
  assert any(language.findings(name) for name in language.files([entry]))


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("# Always on the highway, amended, as usual.", []),
    ("def _rung_reason(ladder_of): pass", ["ladder", "rung"]),
    ("# It is left out, and said.", ["left out", "said"]),
    ("parts = made = None", []),
    ("way = None\n\n\ndef parts(): pass", ["way", "parts"]),
  ],
)
def test_a_word_counts_in_text_and_names_but_not_inside_a_word(tmp_path, monkeypatch, text, words):
  (tmp_path / "module.py").write_text(text + "\n")
  monkeypatch.setattr(language, "ROOT", tmp_path)
  assert [word for _, word, _ in language.findings("module.py")] == words
