"""The data, how they were split, and the faults that were found in them."""

from tl_app.report.sections.section import Section

_MAX_SKIPPED = 50
# Severities of findings in their order; the last one is not for the first screen.
_SEVERITIES = ("serious", "warning", "info")
_MAX_NAMED = 2
# {key of splits.json: what it is}. A limit of 0 is none.
_SPLIT_FACTS = {
  "source": "data set",
  "num_examples": "examples",
  "sampled": "splits that were drawn",
  "split_seed": "--split_seed",
  "validation_fraction": "--validation_fraction",
  "test_fraction": "--test_fraction",
  "max_examples": "--max_examples",
  "max_examples_per_class": "--max_examples_per_class",
}
_LIMITS = ("max_examples", "max_examples_per_class")


def _context(facts):
  return {"data": _data(facts.splits), "findings": facts.findings}


def _data(manifest):
  """Returns what splits.json tells: facts, notes, skipped examples, and counts per class (rows) and split (columns)."""
  counts = manifest.get("counts", {})
  names = {name for per_class in counts.values() for name in per_class}
  skipped = manifest.get("skipped", [])
  return {
    "facts": {
      title: manifest[name]
      for name, title in _SPLIT_FACTS.items()
      if name in manifest and (manifest[name] or name not in _LIMITS)
    },
    "notes": manifest.get("notes", []),
    "skipped": skipped[:_MAX_SKIPPED],
    "num_skipped": len(skipped),
    "splits": list(counts),
    "totals": [sum(per_class.values()) for per_class in counts.values()],
    "rows": [(name, [per_class.get(name, 0) for per_class in counts.values()]) for name in sorted(names)],
  }


def _answers(facts):
  """Names the faults to fix first, the serious ones before the others."""
  found = sorted(facts.findings.get("findings", []), key=lambda row: _SEVERITIES.index(row["severity"]))
  named: dict = {}
  for row in found:
    if row["severity"] != _SEVERITIES[-1]:
      # The same fault may stand there for several splits.
      named.setdefault(row["meaning"], row)
  rows = list(named.values())[:_MAX_NAMED]
  return {"next": [f"Data: {row['meaning']} ({row['count']:,}); {row['advice']}." for row in rows]}


SECTION = Section("data", "Data", _context, _answers)
