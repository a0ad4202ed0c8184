"""A tag for each word: softmax and cross-entropy at its first subword, entities by seqeval."""

import collections
import dataclasses
import typing

import numpy as np

from tl_app.config import AUTO
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.tasks import calibration, cells, explained, solvers, statistics, tags, wording
from tl_app.tasks.answers import Answers
from tl_app.tasks.label_codec import LabelCodec
from tl_app.tasks.loss_spec import LossSpec
from tl_app.tasks.metrics import CountMetrics, usable_logits
from tl_app.tasks.single_label import TIE
from tl_app.tasks.task import Task

# Target of the padding.
NO_WORD = -1


@dataclasses.dataclass(frozen=True)
class TagCodec(LabelCodec):
  """Targets are int32 [n, words], positions in `names`, padded with -1; `names` are O, then B- and I- of each type.

  Logits are float [n, positions, tags] of any number of positions. A word beyond them was not read, and neither was a
  word whose logits are all equal: its answer is O.

  Attributes:
    scheme: of the tags as they were given; `names` are BIO.
    words_per_example: mean over the training examples.
    temperature: by which the logits are divided.
  """

  scheme: str = "BIO"
  words_per_example: float = 1.0
  temperature: float = 1.0

  def configure(self, config, labels):
    return dataclasses.replace(self, scheme=tags.scheme(labels))

  def input_error(self, examples):
    if examples.modality != "text":
      holds = f"--dataset={examples.source} holds {examples.modality}s"
      return f"--task=token_classification tags the words of texts, but {holds}"
    for id, text, label in zip(examples.ids, examples.inputs.array(), examples.labels):
      words, found = len(tags.spans(text)), len(label.split())
      if words != found:
        return f"{id} has {words} words, separated by white space, but {found} tags: give one tag per word"
    return ""

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
    position = {name: index for index, name in enumerate(self.names)}
    rows = [tags.bio(label.split()) for label in labels]
    unknown = sorted({tag for row in rows for tag in row} - set(position))
    if unknown:
      raise cells.unknown(unknown[0], self.names)
    targets = np.full((len(rows), max(map(len, rows), default=1)), NO_WORD, np.int32)
    for row, of_words in zip(targets, rows):
      row[: len(of_words)] = [position[tag] for tag in of_words]
    return targets

  def as_probabilities(self, targets):
    return np.eye(len(self.names), dtype=np.float32)[targets]

  def calibrate(self, logits, targets, config):
    known = targets != NO_WORD
    words = _aligned(logits, targets.shape[1])[known]
    fitted = calibration.fit_temperature(words, targets[known]) if config.calibration == AUTO else 1.0
    return dataclasses.replace(self, temperature=fitted)

  def calibrated(self, logits):
    return logits / self.temperature

  def describe(self):
    read = "" if self.scheme == "BIO" else f", {self.scheme} turned into BIO"
    return f"{number_of(len(self.types), 'entity type')}, {number_of(len(self.names), 'tag')}{read}"

  @property
  def types(self) -> list[str]:
    """The entity types, in the order of `names`."""
    return [name.partition("-")[2] for name in self.names[1::2]]


@dataclasses.dataclass(frozen=True)
class TagLoss(LossSpec):
  """Cross-entropy of the softmax over the tags of each word."""

  title: typing.ClassVar = "cross-entropy in nats, mean over the words"

  def initial_bias(self, targets):
    counts = np.bincount(targets[targets != NO_WORD], minlength=len(self.codec.names)) + 0.5
    return np.log(counts / counts.sum()).astype(np.float32)

  def loss(self, label_smoothing):
    """Returns the loss of targets [batch, words] and logits [batch, positions, tags], or of words alone, one rank less.

    It is the sum over the words of an example, divided by the mean number of words in train: every word has the same
    weight, whatever batch and whatever device it is in.
    """
    from keras import ops

    num_tags = len(self.codec.names)

    def loss(targets, logits):
      targets = ops.cast(targets, "int32")
      whole = len(logits.shape) == 3
      logits = _aligned_in_graph(logits, targets) if whole else logits
      wanted = ops.one_hot(ops.maximum(targets, 0), num_tags)
      wanted = wanted * (1 - label_smoothing) + label_smoothing / num_tags
      losses = -ops.sum(wanted * ops.log_softmax(logits), axis=-1) * ops.cast(targets != NO_WORD, "float32")
      return ops.sum(losses, axis=1) / self.codec.words_per_example if whole else losses

    return loss

  def mean_loss(self, logits, targets):
    known = targets != NO_WORD
    return statistics.cross_entropy(_aligned(logits, targets.shape[1])[known], targets[known])

  def probe_estimators(self, solver):
    return solvers.classifiers(solver)

  def probe_weights(self, estimator):
    kernel, bias = solvers.softmax_weights(estimator)
    # A tag that no word of train has: never the answer.
    num_tags = len(self.codec.names)
    all_kernels, all_biases = np.zeros((len(kernel), num_tags)), np.full(num_tags, bias.min() - 10.0)
    all_kernels[:, estimator.classes_], all_biases[estimator.classes_] = kernel, bias
    return all_kernels, all_biases


@dataclasses.dataclass(frozen=True)
class EntityMetrics(CountMetrics):
  """F1 of whole entities decides."""

  primary_metric: typing.ClassVar = "f1"
  metric_titles: typing.ClassVar = {
    "f1": "entity F1",
    "precision": "entity precision",
    "recall": "entity recall",
    "word_accuracy": "word accuracy",
  }
  baseline_name: typing.ClassVar = "no_entity"
  baseline_title: typing.ClassVar = "finding no entity"
  support_title: typing.ClassVar = "entities"

  def compute_metrics(self, logits, targets, seed=0):
    """Returns the metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, positions, tags], finite; n is at least 1.
      targets: int [n, words], -1 where there is no word.
      seed: seed of the bootstrap.

    Returns:
      A dict: "num_examples", "num_words"; "loss"; "precision", "recall" and "f1" of whole entities (type and both ends,
      micro average, as seqeval and conlleval count them) and "word_accuracy", each with "_ci95", the 95 % percentile
      bootstrap interval over examples, or None with fewer than ten found or missed entities; "per_class" {entity type:
      {"precision", "recall", "f1", "support"}}; "calibration" of the words (see `calibration`, and "uncalibrated" with
      the same of the uncalibrated probabilities). What is 0/0 counts 0.
    """
    uncalibrated, targets = usable_logits(logits, targets), np.asarray(targets)
    logits = self.codec.calibrated(uncalibrated)
    counts = self.counts(logits, targets)
    known = targets != NO_WORD
    right = ((_answers(logits, targets.shape[1]) == targets) & known).sum(axis=1)
    words = np.stack([right, known.sum(axis=1)], axis=1).astype(np.float64)
    sums = counts.sum(axis=0)
    hits, predicted, support = np.split(sums, 3)
    metrics = {
      "num_examples": len(targets),
      "num_words": int(known.sum()),
      "loss": self.loss.mean_loss(logits, targets),
    }
    metrics |= {key: float(value) for key, value in _entity_metrics(sums).items()}
    metrics["word_accuracy"] = float(right.sum() / known.sum())
    few = min(hits.sum(), predicted.sum() + support.sum() - 2 * hits.sum()) < statistics.FEW
    for key in ("precision", "recall", "f1"):
      metrics[f"{key}_ci95"] = (
        None if few else statistics.bootstrap(counts, lambda sums, key=key: _entity_metrics(sums)[key], seed)
      )
    metrics["word_accuracy_ci95"] = (
      None if few else statistics.bootstrap(words, lambda sums: sums[..., 0] / sums[..., 1], seed)
    )
    metrics["per_class"] = {
      kind: {key: float(value) for key, value in _entity_metrics(np.array(of_type)).items()}
      | {"support": int(of_type[2])}
      for kind, of_type in zip(self.codec.types, zip(hits, predicted, support))
    }
    before = self.calibration(uncalibrated, targets)
    return metrics | {"calibration": self.calibration(logits, targets) | {"uncalibrated": before}}

  def calibration(self, calibrated, targets):
    known = targets != NO_WORD
    words, truth = _aligned(calibrated, targets.shape[1])[known], targets[known]
    return calibration.of_one_class(words, truth)

  def headline(self, test):
    recall, precision = (wording.of_hundred(test[name]) for name in ("recall", "precision"))
    return f"{recall} entities found, {precision} answers right"

  def describe(self, test):
    return [
      f"Of the entities in the texts it finds {wording.of_hundred(test['recall'])}, with the right type and both ends; "
      f"of those that it answers {wording.of_hundred(test['precision'])} are right.",
      f"{wording.of_hundred(test['word_accuracy'])} words have the right tag.",
    ]

  def baseline(self, train_targets, targets):
    return {"baseline": {"f1": 0.0, "word_accuracy": float(np.mean(targets[targets != NO_WORD] == 0))}}

  def sufficient_statistics(self, rows):
    return self._count((row["label"].split(), row["prediction"].split()) for row in rows)

  def score_from_statistics(self, sums):
    return _entity_metrics(sums)["f1"]

  def counts(self, outputs, targets):
    """Returns `_count` of the answers and the targets."""
    names, lengths = np.array(self.codec.names), (targets != NO_WORD).sum(axis=1)
    pairs = zip(targets, _answers(outputs, targets.shape[1]), lengths)
    return self._count((names[truth[:length]], names[answer[:length]]) for truth, answer, length in pairs)

  def _count(self, pairs):
    """Returns float64 [n, 3 types] of pairs of true and predicted tags: of each example the hits of each entity type,
    then the answers, then the truth."""
    position, rows = {kind: index for index, kind in enumerate(self.codec.types)}, []
    for pair in pairs:
      truth, answer = (collections.Counter(tags.entities(of)) for of in pair)
      row = np.zeros((3, len(position)))
      for at, entities in enumerate((truth & answer, answer, truth)):
        for (kind, _, _), number in entities.items():
          row[at, position[kind]] += number
      rows.append(row.ravel())
    return np.array(rows)


@dataclasses.dataclass(frozen=True)
class EntityAnswers(Answers):
  """A tag for each word, and the entities that the tags mark; the score is that of the least certain word."""

  right: typing.ClassVar = "right in every word"
  sure: typing.ClassVar = "it is at least {percent} sure of every word"

  def outputs(self, logits):
    logits = self.codec.calibrated(np.asarray(logits))
    return statistics.softmax(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)

  def rows(self, ids, labels, outputs):
    for id, label, answer, of_words in zip(ids, labels, _answers(outputs, outputs.shape[1]), outputs):
      truth = tags.bio(label.split())
      found = [self.codec.names[index] for index in answer[: len(truth)]]
      found += [tags.OUT] * (len(truth) - len(found))
      # Nine significant digits tell any two float32 apart.
      yield id, " ".join(truth), " ".join(found), f"{of_words[: len(truth)].max(axis=-1).min():.9g}"

  def signature_outputs(self, logits, inputs):
    import tensorflow as tf

    words = tf.strings.split(inputs)
    present = tf.sequence_mask(words.row_lengths(), tf.maximum(words.bounding_shape()[1], 1))
    logits = _aligned_in_graph(self.codec.calibrated(logits), present)
    probabilities = tf.where(present[..., None], tf.nn.softmax(logits), 0.0)
    answers = tf.gather(tf.constant(self.codec.names), tf.argmax(probabilities, axis=-1))
    return {
      "words": words.to_tensor("", shape=tf.shape(present, tf.int64)),
      "labels": tf.where(present, answers, ""),
      "scores": tf.reduce_max(probabilities, axis=-1),
      "probabilities": probabilities,
    }

  def decode(self, served, inputs):
    for text, labels, scores in zip(inputs, served["labels"], served["scores"]):
      text = text.decode("utf-8")
      spans = tags.spans(text)
      labels = [label.decode("utf-8") for label in labels[: len(spans)]]
      yield {
        "entities": [
          {
            "text": text[spans[first][0] : spans[last][1]],
            "type": kind,
            "start": spans[first][0],
            "end": spans[last][1],
            # An entity is as certain as its least certain word.
            "score": float(min(scores[first : last + 1])),
          }
          for kind, first, last in tags.entities(labels)
        ],
        "words": [text[start:end] for start, end in spans],
        "labels": labels,
      }

  @property
  def explainable(self):
    return self.codec.types

  def explained(self, logits, names=()):
    """As of `Answers`: the tag of the first word of each entity; without one the most probable beginning."""
    probabilities = self.outputs(np.asarray(logits)[None])[0]
    best = probabilities.argmax(axis=-1)
    entities = [] if names else tags.entities(self.codec.names[index] for index in best)
    found = [(kind, (first, int(best[first])), (first, last)) for kind, first, last in entities]
    # A word that was not read has equal logits.
    beginnings = np.where(np.ptp(logits, axis=-1) > 0, probabilities[:, 1::2].T, 0.0)
    types = explained.positions(names, self.explainable) or ([] if found else [int(beginnings.max(axis=1).argmax())])
    likely = [int(beginnings[index].argmax()) for index in types]
    found += [(self.codec.types[i], (word, 1 + 2 * i), (word, word)) for i, word in zip(types, likely)]
    return [explained.Explained(kind, place, float(probabilities[place]), words) for kind, place, words in found]

  def score(self, logits, place):
    word, tag = place
    return explained.log_odds(self.codec.calibrated(logits)[:, word], tag)

  def label_cells(self, answer):
    return [" ".join(answer["labels"])]

  def describe_answer(self, answer):
    found = [f"{row['text']} ({row['type']}, {100 * row['score']:.0f} %)" for row in answer["entities"]]
    return ", ".join(found) or "no entity"

  def check_labels(self, cells, inputs):
    super().check_labels(cells, inputs)
    words, given = len(tags.words(inputs[0])), len(cells[0].split())
    if words != given:
      raise UserError(f"the text has {words} words, but there are {given} tags: give one tag per word")

  def parity(self, served, outputs):
    present = served["words"] != ""
    expected = _aligned(outputs, present.shape[1])
    unread = expected.sum(axis=-1, keepdims=True) == 0
    expected = np.where(unread, 1 / len(self.codec.names), expected)[present]
    top = np.sort(expected, axis=-1)
    decided = top[:, -1] - top[:, -2] > TIE
    flips = (served["labels"][present] != np.array(self.codec.names)[expected.argmax(axis=-1)]) & decided
    return statistics.class_parity(served["probabilities"][present], expected, flips)

  def describe_parity(self, parity):
    return super().describe_parity(parity).replace("test examples", "words of test examples", 1)

  def format_label(self, cell, value):
    words = tags.words(value)
    entities = [f"{' '.join(words[first : last + 1])} ({kind})" for kind, first, last in tags.entities(cell.split())]
    return ", ".join(entities) or "no entity"


def _answers(outputs, width):
  """Returns int [n, width], the positions of the answers in `names`; 0, which is O, beyond what was read."""
  return _aligned(outputs, width).argmax(axis=-1)


def _aligned(values, width):
  """Returns float [n, width, tags] of [n, positions, tags]: cut, or padded with zeros."""
  values = np.asarray(values)[:, :width]
  return np.pad(values, [(0, 0), (0, width - values.shape[1]), (0, 0)])


def _aligned_in_graph(logits, like):
  """Returns logits [batch, positions, tags] with as many positions as `like`, [batch, words]."""
  import tensorflow as tf

  width = tf.shape(like)[1]
  return tf.pad(logits, [[0, 0], [0, tf.maximum(width - tf.shape(logits)[1], 0)], [0, 0]])[:, :width]


def _entity_metrics(sums):
  """Returns {"precision", "recall", "f1"} [..] of sums of `counts` [.., 3 types], over all types; 0/0 counts 0."""
  hits, predicted, support = (part.sum(axis=-1) for part in np.split(sums, 3, axis=-1))
  return {
    "precision": hits / np.maximum(predicted, 1),
    "recall": hits / np.maximum(support, 1),
    "f1": 2 * hits / np.maximum(predicted + support, 1),
  }


_CODEC = TagCodec()
_LOSS = TagLoss(_CODEC)
TOKEN_CLASSIFICATION = Task(
  name="token_classification",
  codec=_CODEC,
  loss=_LOSS,
  metrics=EntityMetrics(_CODEC, _LOSS),
  answers=EntityAnswers(_CODEC),
  per_token=True,
  probe_solvers=("adamw", "logistic", "svm"),
  closed_solver="logistic",
  answer_flags=("calibration",),
)
