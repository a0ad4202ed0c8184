"""The four tables of rated texts in the archive of the starter set `movie_reviews` (Hutto & Gilbert 2014)."""

import io
import tarfile

from tl_app.assets import Assets
from tl_app.data.readers import starters

TABLES = {
  "film reviews": "movieReviewSnippets",
  "product reviews": "amazonReviewSnippets",
  "tweets": "tweets",
  "editorials": "nytEditorialSnippets",
}


def rated(assets: Assets, name: str) -> list[tuple[float, str]]:
  """Returns [(mean rating from -4 to 4, text)] of a table of `TABLES`."""
  with tarfile.open(starters.movie_reviews_archive(assets)) as tar:
    member = tar.extractfile(f"hutto_ICWSM_2014/{TABLES[name]}_GroundTruth.txt")
    table = io.TextIOWrapper(member, encoding="utf-8").read()
  rows = (line.split("\t") for line in table.splitlines())
  return [(float(rating), text) for _, rating, text in rows]
