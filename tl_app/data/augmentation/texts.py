"""Texts: words are replaced by others of the training texts, change places, or go (EDA, Wei & Zou 2019)."""

import collections

import numpy as np
import tensorflow as tf

from tl_app.errors import UserError

# Share of the words that the operation of a text takes, EDA's alpha. Above 0.2 the accuracies of its authors fall.
SHARES = {"light": 0.1, "medium": 0.2}
# Texts without spaces (Chinese, Japanese) are one word each.
FEWEST_WORDS = 3
# Occurrences of words to draw replacements from: as frequent there as in the texts.
POOL = 100_000
# Parts of speech (Penn Treebank, without the details of proper names) whose words replace each other. Adverbs do not:
# "not" and "never" are among them. Nor do the words that hold a sentence together.
OPEN = ("NN", "NNS", "NNP", "JJ", "VB", "VBD", "VBG", "VBN", "VBP", "VBZ", "CD")
# Fewer words than this share in the English lexicon, and the texts are not English.
KNOWN = 0.5


class Augment:
  """Strings to strings of the same shape, changed at random."""

  def __init__(self, name, texts, seed):
    """Args:
    name: "light" replaces a word by any of the training texts, "medium" by one of the same part of speech.
    texts: iterable of str, the training texts.
    seed: int.

    Raises:
      UserError: the name is not one of texts, the texts have no words, or "medium" lacks its package or does not know
        their language.
    """
    if name not in SHARES:
      raise UserError(f"--augment={name} is for images: texts take {' or '.join(SHARES)}")
    texts = [text.split() for text in texts]
    if np.median([len(words) for words in texts]) < FEWEST_WORDS:
      raise UserError(f"--augment={name} needs texts of several words with spaces between them: remove the flag")
    self._seed, self._share = seed, SHARES[name]
    words = [word for text in texts for word in text]
    self._tags = _tags(texts) if name == "medium" else dict.fromkeys(words, "")
    self._pools = _pools(words, self._tags, seed)

  def __call__(self, texts, number):
    """Returns string [batch, ..] of the same, as they are in batch `number`, int64 scalar, of the stream."""
    changed = tf.numpy_function(self._change, [texts, number], tf.string, stateful=False)
    return tf.ensure_shape(changed, texts.shape)

  def copy(self, texts, number):
    """Returns the texts of one example, a tuple of str, changed as in batch `number` if they were all of it."""
    changed = self._change(np.array([text.encode() for text in texts], object), number)
    return tuple(text.decode() for text in changed)

  def _change(self, texts, number):
    rng = np.random.default_rng([self._seed, int(number)])
    changed = [" ".join(self.change(text.decode("utf-8", "replace").split(), rng)) for text in texts.reshape(-1)]
    return np.array([text.encode() for text in changed], object).reshape(texts.shape)

  def change(self, words, rng):
    """Returns the words of one text after one of the three operations, drawn evenly; one word is always left."""
    operation = (self._replace, _swap, _drop)[rng.integers(3)]
    return operation(list(words), np.flatnonzero(rng.random(len(words)) < self._share), rng)

  def _replace(self, words, chosen, rng):
    for i in chosen:
      pool = self._pools.get(self._tags.get(words[i]))
      if pool is not None:
        words[i] = pool[rng.integers(len(pool))]
    return words


def described(name):
  """Returns what --augment does to a text, in a few words."""
  other = "another of the same part of speech" if name == "medium" else "another"
  return f"of a text {SHARES[name]:.0%} of the words are replaced by {other}, change places, or go"


def _swap(words, chosen, rng):
  for i in chosen:
    j = rng.integers(len(words))
    words[i], words[j] = words[j], words[i]
  return words


def _drop(words, chosen, rng):
  gone = set(chosen)
  return [word for i, word in enumerate(words) if i not in gone] or words[:1]


def _pools(words, tags, seed):
  """Returns {tag: object array of words}, as frequent as in the training texts."""
  if len(words) > POOL:
    words = [words[i] for i in np.random.default_rng(seed).choice(len(words), POOL, replace=False)]
  pools = collections.defaultdict(list)
  for word in words:
    if word in tags:
      pools[tags[word]].append(word)
  return {tag: np.array(members, object) for tag, members in pools.items()}


def _tags(texts):
  """Returns {word: part of speech that it has most often in `texts`}, of the words of `OPEN` ones.

  By TextBlob, whose wheel contains the lexicon and rules (MIT licence; Brill 1992). Words that touch punctuation get
  none: the punctuation would move with them.
  """
  try:
    from textblob import en
  except ImportError:
    raise UserError("--augment=medium needs TextBlob: pip install 'tl_app[augment]', or take --augment=light") from None
  counts = collections.defaultdict(collections.Counter)
  known = total = 0
  for words in texts:
    plain = [word for word in words if word.replace("-", "").replace("'", "").isalnum()]
    total += len(plain)
    known += sum(word.lower() in en.lexicon or word.isdigit() for word in plain)
    # TextBlob separates its fields by slashes; the words have none.
    for word, tag in en.tag(" ".join(plain), tokenize=False):
      counts[word][tag.split("-")[0].replace("NNPS", "NNP")] += 1
  if known < KNOWN * total:
    raise UserError(
      f"--augment=medium uses an English lexicon, which knows {known / total:.0%} of the words: take --augment=light"
    )
  tags = {word: found.most_common(1)[0][0] for word, found in counts.items()}
  return {word: tag for word, tag in tags.items() if tag in OPEN}
