"""Lists the words in the repository that are not the field's: CONTRIBUTING.md asks for plain English.

python -m tests.language [--list] [PATH ..]

Prints the number of such words by file, and with --list each line. A word counts in text and as a part of a name
(`word_count`), but not inside another word: "amended" is no "mend".
"""

import argparse
import ast
import io
import pathlib
import re
import subprocess
import sys
import tokenize

ROOT = pathlib.Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".md", ".cfg", ".toml", ".html", ".ipynb", ".yml", ".yaml", ".cff", ""}
# The changelog names what was renamed, and these two files name what is refused.
EXEMPT = {"LICENSE", "CHANGELOG.md", "tests/language.py", "tests/docs/test_language.py"}

# Pattern of a word that stands nowhere -> what to write.
WORDS = {
  "rungs?": "candidate",
  "ladders?": "model selection",
  "ships?|shipped|shipping": "is selected, contains",
  "marks": "baseline scores",
  "climb(s|ed|ing)?": "train the phases",
  "settle[sd]?|settling": "choose",
  "mend(s|ed|ing)?": "fix",
  "tak(e|es|en|ing) apart": "split",
  "(leave|leaves|leaving|left)( it| them| this| these| out of it)? out": "remove",
  "said": "printed",
  "by[ _]word": "per token",
  "commonest": "majority",
  "twins?": "preprocessing model",
  "figures": "metrics",
  "fresh process changed": "answered by a new process, .. labels differ",
  "what stands on the head": "layers kept in float32",
  "unit_length": "l2_normalized",
}
# Names of Python -> the name to use. In text these are ordinary words.
NAMES = {
  "way": "step_policy",
  "ways": "step_policies",
  "Way": "StepPolicy",
}
# Names of the old seams -> the name to use.
OLD_NAMES = {
  "in_parts": "microbatched",
  "InParts": "MicrobatchModel",
  "of_size": "size_weighted",
  "OfSize": "SizeWeightedModel",
  "of_steps": "profile_training_steps",
  "of_forward_passes": "profile_inference",
  "Together": "CrossEncoder",
  "Apart": "BiEncoder",
  "Around": "PreprocessWrapper",
  "Face": "ModuleInterface",
  "Look": "ImageFacts",
  "Seen": "DecodedImageIndex",
  "Changed": "AugmentedImage",
  "FirstPieces": "FirstSubword",
  "rivals": "alternatives",
  "unreached": "disconnected",
  "torn": "conflicting",
  "boost": "lr_multiplier",
  "fresh_head": "reset_head",
  "fresh_features": "recompute_features",
  "make_room": "evict",
  "score_from": "score_from_statistics",
  "idle_flags": "flags_without_effect",
  "over_seeds": "compare_statistics",
  "rate_test": "lr_range_test",
}
# Names of functions, classes and fields that say too little -> what to say. As local variables they may stand.
DEFINITIONS = {
  "keep": "what is kept",
  "put": "set_.. or write_..",
  "made": "what is made",
  "left": "remaining_..",
  "places": "rows, positions",
  "parts": "steps",
  "piece": "subword",
  "pieces": "subwords",
}
# {(file, word): why it may stand there}
ORDINARY = {("tests/data/test_tables.py", "said"): "a text of an example"}
PATTERNS = {re.compile(rf"(?<![A-Za-z])({word})(?![A-Za-z])", re.IGNORECASE): better for word, better in WORDS.items()}


def files(under=()):
  """Returns the paths, relative to the repository, of the text files that git knows; `under`: only below these."""
  listed = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *under],
    cwd=ROOT, capture_output=True, text=True, check=True,
  ).stdout.splitlines()  # fmt: skip
  return [
    name for name in sorted(set(listed))
    if name not in EXEMPT and pathlib.Path(name).suffix in SUFFIXES and (ROOT / name).is_file()
  ]  # fmt: skip


def findings(name):
  """Returns [(line number, word, what to write)] of one file, in the order of its lines."""
  text = (ROOT / name).read_text(encoding="utf-8")
  found = [
    (number, match.group(), better)
    for number, line in enumerate(text.splitlines(), 1)
    for pattern, better in PATTERNS.items()
    for match in pattern.finditer(line)
  ]
  if name.endswith(".py"):
    found += [(number, word, (NAMES | OLD_NAMES)[word]) for number, word in _names(text) if word in NAMES | OLD_NAMES]
    found += [(number, word, DEFINITIONS[word]) for number, word in _definitions(text) if word in DEFINITIONS]
  return sorted(finding for finding in found if (name, finding[1]) not in ORDINARY)


def _names(text):
  """Yields (line number, name) of what the code defines or uses."""
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.NAME:
      yield token.start[0], token.string


def _definitions(text):
  """Yields (line number, name) of the functions, classes and annotated fields."""
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      yield node.lineno, node.name
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      yield node.lineno, node.target.id


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--list", action="store_true", help="Print each line.")
  parser.add_argument("paths", nargs="*", help="Files or directories. Default: the repository.")
  arguments = parser.parse_args()
  by_file = {name: found for name in files(arguments.paths) if (found := findings(name))}
  for name, found in by_file.items():
    if arguments.list:
      print("\n".join(f"{name}:{number}: {word!r}: write {better}" for number, word, better in found))
    else:
      print(f"{len(found):5} {name}")
  print(f"{sum(map(len, by_file.values())):5} in {len(by_file)} files")
  return 0


if __name__ == "__main__":
  sys.exit(main())
