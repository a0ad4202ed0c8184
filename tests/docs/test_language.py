"""The repository is written in plain English: see `tests/language.py` for the words that are refused."""

import pytest

from tests import language


def test_the_repository_is_in_plain_english():
  found = [
    f"{name}:{number}: {word!r}: write {better}"
    for name in language.files()
    for number, word, better in language.findings(name)
  ]
  assert not found, "\n".join(found)


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
