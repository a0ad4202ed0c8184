"""Where the model comes from: command, downloads with licence and checksums, versions."""

from tl_app.report import formatting
from tl_app.report.facts import RunFacts, read_json
from tl_app.report.sections.section import Section

_MAX_FILES = 200


def _context(facts):
  config = facts.config
  found = {
    "command": formatting.command("tl_app.train", formatting.given_flags(config)) if config else "",
    "downloads": facts.plan.get("downloads", []),
    "checksums": _checksums(facts)[:_MAX_FILES],
  }
  return found if any(found.values()) or facts.metrics.get("environment") else None


def _checksums(facts: RunFacts) -> list[tuple[str, str]]:
  """Returns (file, sha256) of what was downloaded, and of the files of the run."""
  listed = [
    (f"{download['source']}: {name}", file["sha256"])
    for download in facts.plan.get("downloads", [])
    for name, file in download["files"].items()
  ]
  own = read_json(facts.paths.checksums).get("files", {})
  return listed + [(name, file["sha256"]) for name, file in own.items()]


SECTION = Section("provenance", "Provenance", _context)
