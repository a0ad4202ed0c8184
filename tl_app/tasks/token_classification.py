"""A tag for each word: softmax and cross-entropy at its first piece, entities by seqeval."""

import collections
import dataclasses
import typing

import numpy as np

from tl_app.config import refuse
from tl_app.errors import UserError
from tl_app.tasks import cells, solvers, statistics, tags
from tl_app.tasks.single_label import TIE
from tl_app.tasks.task import Task

# Target of what fills an example up to the longest.
NO_WORD = -1


@dataclasses.dataclass(frozen=True)
class TokenClassification(Task):
  """Targets are int32 [n, words], positions in `names`, filled up with -1; `names` are O, then B- and I- of each type.

  Logits are float [n, positions, tags], of any number of positions: a word beyond them, or with logits that are all
  equal, was not read, and its answer is O.

  Attributes:
    scheme: of the tags as they were given; `names` are BIO.
    words_per_example: mean of the training examples.
  """

  scheme: str = "BIO"
  words_per_example: float = 1.0

  name: typing.ClassVar = "token_classification"
  score: typing.ClassVar = "f1"
  shown: typing.ClassVar = {
    "f1": "entity F1",
    "precision": "entity precision",
    "recall": "entity recall",
    "word_accuracy": "word accuracy",
  }
  baseline_name: typing.ClassVar = "no entity"
  baseline_title: typing.ClassVar = "always answering O"
  loss_title: typing.ClassVar = "cross-entropy in nats, mean over the words"
  test_title: typing.ClassVar = "randomisation test"
  solvers: typing.ClassVar = ("adamw", "logistic", "svm")
  by_word: typing.ClassVar = True

  @classmethod
  def read(cls, config, labels):
    refuse(config, ["text_pair_column", "label_columns", "preprocessor"], f"for --task={cls.name}")
    if config.pooling != "auto":
      raise UserError(
        f"--pooling={config.pooling} does nothing for --task={cls.name}: the first piece of a word counts"
      )
    return cls(scheme=tags.scheme(labels))

  def accept(self, examples):
    if examples.modality != "text":
      raise UserError(f"--task={self.name} tags the words of texts, but --dataset={examples.source} holds images")
    for id, text, label in zip(examples.ids, examples.inputs, examples.labels):
      words, found = len(tags.spans(text)), len(label.split())
      if words != found:
        raise UserError(f"{id} has {words} words, which white space separates, but {found} tags: give a tag a word")
    return self

  def classes(self, labels):
    return [tuple(sorted({tags.split(tag)[1] or tags.OUT for tag in label.split()})) for label in labels]

  def fit(self, labels):
    types = {name for names in self.classes(labels) for name in names} - {tags.OUT}
    if not types:
      raise UserError("train has no entity: every tag is O")
    names = (tags.OUT, *(f"{prefix}-{kind}" for kind in sorted(types) for prefix in "BI"))
    words = np.mean([len(label.split()) for label in labels])
    return dataclasses.replace(self, names=names, words_per_example=float(words))

  def targets(self, labels):
    place = {name: index for index, name in enumerate(self.names)}
    found = [tags.bio(label.split()) for label in labels]
    unknown = sorted({tag for row in found for tag in row} - set(place))
    if unknown:
      raise cells.unknown(unknown[0], self.names)
    targets = np.full((len(found), max(map(len, found), default=1)), NO_WORD, np.int32)
    for row, of_words in zip(targets, found):
      row[: len(of_words)] = [place[tag] for tag in of_words]
    return targets

  def dense(self, targets):
    return np.eye(len(self.names), dtype=np.float32)[targets]

  def initial_bias(self, targets):
    counts = np.bincount(targets[targets != NO_WORD], minlength=len(self.names)) + 0.5
    return np.log(counts / counts.sum()).astype(np.float32)

  def loss(self, label_smoothing):
    """Returns the loss of targets [batch, words] and logits [batch, positions, tags], or of words alone, one rank less.

    The sum over the words of an example, over the mean number of words in train: every word counts the same, whatever
    batch and whatever device it is in.
    """
    from keras import ops

    def loss(targets, logits):
      targets = ops.cast(targets, "int32")
      whole = len(logits.shape) == 3
      logits = _aligned_in_graph(logits, targets) if whole else logits
      wanted = ops.one_hot(ops.maximum(targets, 0), len(self.names))
      wanted = wanted * (1 - label_smoothing) + label_smoothing / len(self.names)
      losses = -ops.sum(wanted * ops.log_softmax(logits), axis=-1) * ops.cast(targets != NO_WORD, "float32")
      return ops.sum(losses, axis=1) / self.words_per_example if whole else losses

    return loss

  def score_of(self, outputs, targets):
    return float(self.score_from(self._counts(outputs, targets).sum(axis=0)))

  def mean_loss(self, logits, targets):
    known = targets != NO_WORD
    return statistics.cross_entropy(_aligned(logits, targets.shape[1])[known], targets[known])

  def p_value(self, first, second, targets):
    one, two = (self._counts(logits, targets) for logits in (first, second))
    return statistics.randomisation([(one, two, self.score_from)])

  def estimators(self, solver):
    return solvers.classifiers(solver)

  def weights(self, estimator):
    kernel, bias = solvers.softmax_weights(estimator)
    # A tag that no word of train has: never the answer.
    all_kernels, all_biases = np.zeros((len(kernel), len(self.names))), np.full(len(self.names), bias.min() - 10.0)
    all_kernels[:, estimator.classes_], all_biases[estimator.classes_] = kernel, bias
    return all_kernels, all_biases

  def outputs(self, logits):
    logits = np.asarray(logits)
    return statistics.softmax(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)

  def measure(self, logits, targets, seed=0):
    """Returns the metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, positions, tags], finite; n is at least 1.
      targets: int [n, words], -1 where there is no word.
      seed: seed of the bootstrap.

    Returns:
      A dict: "num_examples", "num_words"; "loss"; "precision", "recall" and "f1" of whole entities (type and both ends,
      micro average, as seqeval and conlleval count them) and "word_accuracy", each with "_ci95", the 95 % percentile
      bootstrap interval over examples, or None with fewer than ten found or missed entities; "per_class" {entity type:
      {"precision", "recall", "f1", "support"}}. What is 0/0 counts 0.
    """
    logits, targets = self._usable(logits, targets), np.asarray(targets)
    counts = self._counts(logits, targets)
    known = targets != NO_WORD
    right = ((self._answers(logits, targets.shape[1]) == targets) & known).sum(axis=1)
    words = np.stack([right, known.sum(axis=1)], axis=1).astype(np.float64)
    sums = counts.sum(axis=0)
    hits, predicted, support = np.split(sums, 3)
    metrics = {"num_examples": len(targets), "num_words": int(known.sum()), "loss": self.mean_loss(logits, targets)}
    metrics |= {key: float(value) for key, value in _figures(sums).items()}
    metrics["word_accuracy"] = float(right.sum() / known.sum())
    few = min(hits.sum(), predicted.sum() + support.sum() - 2 * hits.sum()) < statistics.FEW
    for key in ("precision", "recall", "f1"):
      metrics[f"{key}_ci95"] = (
        None if few else statistics.bootstrap(counts, lambda sums, key=key: _figures(sums)[key], seed)
      )
    metrics["word_accuracy_ci95"] = (
      None if few else statistics.bootstrap(words, lambda sums: sums[..., 0] / sums[..., 1], seed)
    )
    metrics["per_class"] = {
      kind: {key: float(value) for key, value in _figures(np.array(of_type)).items()} | {"support": int(of_type[2])}
      for kind, of_type in zip(self._types, zip(hits, predicted, support))
    }
    return metrics

  def baseline(self, train_targets, targets):
    return {"baseline": {"f1": 0.0, "word_accuracy": float(np.mean(targets[targets != NO_WORD] == 0))}}

  def rows(self, ids, labels, outputs):
    for id, label, answer, of_words in zip(ids, labels, self._answers(outputs, outputs.shape[1]), outputs):
      truth = tags.bio(label.split())
      found = [self.names[index] for index in answer[: len(truth)]]
      found += [tags.OUT] * (len(truth) - len(found))
      # The least sure word; nine significant digits tell any two float32 apart.
      yield id, " ".join(truth), " ".join(found), f"{of_words[: len(truth)].max(axis=-1).min():.9g}"

  def evidence(self, rows):
    return self._counted((row["label"].split(), row["prediction"].split()) for row in rows)

  def score_from(self, sums):
    return _figures(sums)["f1"]

  @classmethod
  def legible(cls, cell, value):
    words = tags.words(value)
    found = [f"{' '.join(words[first : last + 1])} ({kind})" for kind, first, last in tags.entities(cell.split())]
    return ", ".join(found) or "no entity"

  def serve(self, logits, inputs):
    import tensorflow as tf

    words = tf.strings.split(inputs)
    present = tf.sequence_mask(words.row_lengths(), tf.maximum(words.bounding_shape()[1], 1))
    logits = _aligned_in_graph(logits, present)
    probabilities = tf.where(present[..., None], tf.nn.softmax(logits), 0.0)
    answers = tf.gather(tf.constant(self.names), tf.argmax(probabilities, axis=-1))
    return {
      "words": words.to_tensor("", shape=tf.shape(present, tf.int64)),
      "labels": tf.where(present, answers, ""),
      "scores": tf.reduce_max(probabilities, axis=-1),
      "probabilities": probabilities,
    }

  def answers(self, served, inputs):
    for text, labels, scores in zip(inputs, served["labels"], served["scores"]):
      text = text.decode("utf-8")
      places = tags.spans(text)
      labels = [label.decode("utf-8") for label in labels[: len(places)]]
      yield {
        "entities": [
          {
            "text": text[places[first][0] : places[last][1]],
            "type": kind,
            "start": places[first][0],
            "end": places[last][1],
            # An entity is as sure as its least sure word.
            "score": float(min(scores[first : last + 1])),
          }
          for kind, first, last in tags.entities(labels)
        ],
        "words": [text[start:end] for start, end in places],
        "labels": labels,
      }

  def compare(self, served, outputs):
    present = served["words"] != ""
    expected = _aligned(outputs, present.shape[1])
    unread = expected.sum(axis=-1, keepdims=True) == 0
    expected = np.where(unread, 1 / len(self.names), expected)[present]
    top = np.sort(expected, axis=-1)
    decided = top[:, -1] - top[:, -2] > TIE
    flips = (served["labels"][present] != np.array(self.names)[expected.argmax(axis=-1)]) & decided
    return statistics.class_proof(served["probabilities"][present], expected, flips)

  def described(self):
    read = "" if self.scheme == "BIO" else f", {self.scheme} turned into BIO"
    return f"{len(self._types)} entity types, {len(self.names)} tags{read}"

  @property
  def _types(self):
    return [name.partition("-")[2] for name in self.names[1::2]]

  def _answers(self, outputs, width):
    """Returns int [n, width], the positions in `names` of the answers; 0, which is O, beyond what was read."""
    return _aligned(outputs, width).argmax(axis=-1)

  def _counts(self, outputs, targets):
    """Returns `_counted` of the answers and the targets, tags by their positions in `names`."""
    names, lengths = np.array(self.names), (targets != NO_WORD).sum(axis=1)
    pairs = zip(targets, self._answers(outputs, targets.shape[1]), lengths)
    return self._counted((names[truth[:length]], names[answer[:length]]) for truth, answer, length in pairs)

  def _counted(self, pairs):
    """Returns float64 [n, 3 types] of pairs of truth and answer, tags: of each example and entity type its hits, its
    answers, and its truth."""
    place, rows = {kind: index for index, kind in enumerate(self._types)}, []
    for pair in pairs:
      truth, answer = (collections.Counter(tags.entities(of)) for of in pair)
      row = np.zeros((3, len(place)))
      for at, found in enumerate((truth & answer, answer, truth)):
        for (kind, _, _), number in found.items():
          row[at, place[kind]] += number
      rows.append(row.ravel())
    return np.array(rows)


def _aligned(values, width):
  """Returns float [n, width, tags] of [n, positions, tags]: cut, or filled up with zeros."""
  values = np.asarray(values)[:, :width]
  return np.pad(values, [(0, 0), (0, width - values.shape[1]), (0, 0)])


def _aligned_in_graph(logits, like):
  """Returns logits [batch, positions, tags] with as many positions as `like`, [batch, words]."""
  import tensorflow as tf

  width = tf.shape(like)[1]
  return tf.pad(logits, [[0, 0], [0, tf.maximum(width - tf.shape(logits)[1], 0)], [0, 0]])[:, :width]


def _figures(sums):
  """Returns {"precision", "recall", "f1"} [..] of sums of `_counts` [.., 3 types], over all types; 0/0 counts 0."""
  hits, predicted, support = (part.sum(axis=-1) for part in np.split(sums, 3, axis=-1))
  return {
    "precision": hits / np.maximum(predicted, 1),
    "recall": hits / np.maximum(support, 1),
    "f1": 2 * hits / np.maximum(predicted + support, 1),
  }
