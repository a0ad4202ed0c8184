"""A WordPiece vocabulary that is learnt from texts."""

import collections
import heapq
import itertools
from collections.abc import Iterable, Iterator

import tensorflow as tf

from tl_app.preprocessing import text

# Padding is 0, as in BERT's vocabularies. [MASK] is for masked tokens in pretraining.
RESERVED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Begins a token that continues a word.
JOINER = "##"
# Different characters of the vocabulary, the most frequent ones; a word with another one is unknown.
MAX_CHARACTERS = 1000
# Different words that tokens are learnt from, the most frequent ones.
MAX_WORDS = 50_000
# Different words that are counted; beyond that the words seen once so far are dropped, so that memory is bounded.
MAX_COUNTED = 2_000_000
# Times that two tokens must follow each other before they become one.
MIN_COUNT = 2
_BATCH = 1024


def learn(texts: Iterable[str], size: int) -> tuple[str, ...]:
  """Learns a vocabulary for `text.WordPiece(.., lower=True)`.

  Words begin as single characters. The most frequent pair of neighbouring tokens becomes a token, until there are
  `size` of them (byte-pair encoding, Sennrich et al. 2016; Hugging Face trains WordPiece vocabularies in this way).

  Args:
    texts: texts, read once.
    size: largest number of tokens, `RESERVED` and characters included. The characters are always included.

  Returns:
    The tokens; the position of a token is its id.
  """
  counts = _count(texts)
  characters = collections.Counter()
  for word, count in counts.items():
    for character in word:
      characters[character] += count
  kept = {character for character, _ in _most_frequent(characters, MAX_CHARACTERS)}
  words = [(word, count) for word, count in _most_frequent(counts, MAX_WORDS) if kept.issuperset(word)]
  spelled = [[word[0], *(JOINER + character for character in word[1:])] for word, _ in words]
  alphabet = sorted({token for tokens in spelled for token in tokens}, key=lambda token: (len(token), token))
  merged = _merge(spelled, [count for _, count in words], max(0, size - len(RESERVED) - len(alphabet)))
  return (*RESERVED, *(token for token in alphabet if token not in RESERVED), *merged)


def _count(texts) -> collections.Counter:
  """Returns how often each word occurs, without the words that are too long for a token of their own."""
  counts = collections.Counter()
  for batch in _batches(texts):
    words = text.bert_words(tf.constant(batch), lower=True).flat_values.numpy()
    # A word of 2,000 letters, such as a genome or base64, takes as many merges as all others, and is never read.
    counts.update(word for word in (word.decode("utf-8") for word in words) if len(word) <= text.MAX_CHARS_PER_WORD)
    if len(counts) > MAX_COUNTED:
      counts = collections.Counter({word: count for word, count in counts.items() if count > 1})
  return counts


def _batches(texts) -> Iterator[list[str]]:
  texts = iter(texts)
  while batch := list(itertools.islice(texts, _BATCH)):
    yield batch


def _most_frequent(counts, number):
  """Returns the (key, count) of the largest counts; of equal counts the first in alphabetical order."""
  return heapq.nsmallest(number, counts.items(), key=lambda item: (-item[1], item[0]))


def _merge(spelled, counts, number) -> list[str]:
  """Returns up to `number` tokens that are made of others.

  Args:
    spelled: for each word the list of its tokens, which is changed.
    counts: how often each word occurs.
    number: of tokens.
  """
  pairs, places = collections.Counter(), collections.defaultdict(set)
  for index, tokens in enumerate(spelled):
    for pair in itertools.pairwise(tokens):
      pairs[pair] += counts[index]
      places[pair].add(index)
  queue = [(-count, pair) for pair, count in pairs.items()]
  heapq.heapify(queue)
  merged = {}
  while queue and len(merged) < number:
    negative, pair = heapq.heappop(queue)
    if pairs[pair] != -negative:
      # The count has changed since; the pair is in the queue with its new count too.
      continue
    if pairs[pair] < MIN_COUNT:
      break
    token = pair[0] + pair[1].removeprefix(JOINER)
    merged[token] = None
    changed = set()
    for index in places.pop(pair):
      before = list(itertools.pairwise(spelled[index]))
      spelled[index] = _joined(spelled[index], pair, token)
      after = list(itertools.pairwise(spelled[index]))
      for old in before:
        pairs[old] -= counts[index]
      for new in after:
        pairs[new] += counts[index]
        places[new].add(index)
      changed.update(before, after)
    for other in changed - {pair}:
      if pairs[other] > 0:
        heapq.heappush(queue, (-pairs[other], other))
    pairs[pair] = 0
  return list(merged)


def _joined(tokens, pair, token):
  """Returns the tokens of a word, with `token` in place of each `pair`."""
  result, index = [], 0
  while index < len(tokens):
    if tuple(tokens[index : index + 2]) == pair:
      result.append(token)
      index += 2
    else:
      result.append(tokens[index])
      index += 1
  return result
