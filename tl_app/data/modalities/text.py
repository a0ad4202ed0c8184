"""`Text`: inputs are strings."""

import textwrap

from tl_app.data.examples import content_hash
from tl_app.data.modalities.base import Modality

# A network this wide takes the learning rates of BERT-base (5e-5 to 2e-5, Devlin et al. 2019); narrower ones more.
WIDE = 512
# Words and pairs of words of the TF-IDF baseline, the most frequent ones.
MAX_WORDS = 20000
# Characters of a text in the report.
MAX_PREVIEW = 300


class Text(Modality):
  """Strings, which a tokenizer splits into tokens. Batches hold texts of similar length, padded to the longest."""

  name = "text"
  plural = "texts"
  column_flag = "text_column"
  flags = ("preprocessor", "max_length", "long_text", "batch_tokens")
  predict_sources = "a .txt (a text a line), a table ({tables}), or - for standard input"
  encoded_form = "one text"
  varies_in_length = True
  is_batched = True
  units = "words"
  token_checks = ("long_texts", "unknown_tokens")
  serving_modules = ("tensorflow_text",)

  @property
  def served_form(self):
    return "UTF-8 texts"

  def learning_rate(self, feature_size):
    """1e-4 for narrow networks, 3e-5 for wide ones (Devlin et al. 2019).

    MiniLM on 1,000 sentences: accuracy 0.525 at 3e-5, 0.823 at 1e-4.
    """
    return 3e-5 if feature_size >= WIDE else 1e-4

  def locate(self, cell, table):
    return cell, ""

  def from_bytes(self, data, store):
    try:
      return data.decode("utf-8")
    except UnicodeDecodeError:
      raise ValueError("the text is not UTF-8") from None

  def encode(self, value):
    if not (value and value.strip()):
      return b"", "the text is empty"
    try:
      return value.encode("utf-8"), ""
    except UnicodeEncodeError:
      return b"", "the text is not valid Unicode"

  def fingerprint(self, values, hashes, index):
    from tl_app.data.splitting import text_fingerprints

    return text_fingerprints.fingerprint(values)

  def slice_values(self, values, hashes, index):
    return {"characters": [float(len(text)) for text in values]}

  def training_steps(self, inputs, preprocess, augment=None):
    import tensorflow as tf

    raw, traced = tf.constant(inputs.array(), tf.string), preprocess.traced()
    return {
      "read": lambda i, *_: tf.gather(raw, i),
      **({"augment": lambda texts, number, _: augment(texts, number)} if augment else {}),
      "tokenize": lambda texts, *_: traced(texts),
    }

  def inference_step(self, inputs, preprocess):
    import tensorflow as tf

    raw, traced = tf.constant(inputs.array(), tf.string), preprocess.traced()
    return lambda i: traced(tf.gather(raw, i))

  def plain_features(self, train, others):
    """TF-IDF of the words and of the pairs of words that follow each other."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
      sublinear_tf=True, ngram_range=(1, 2), max_features=MAX_WORDS, token_pattern=r"(?u)\w+"
    )
    try:
      return vectorizer.fit_transform(map(" ".join, train.rows())), vectorizer.transform(map(" ".join, others.rows()))
    except ValueError:
      # No text has a word.
      return None

  def augmentation(self, name, inputs, seed):
    from tl_app.data.augmentation import texts

    return texts.Augment(name, [text for row in inputs.rows() for text in row], seed)

  def describe_augmentation(self, name):
    from tl_app.data.augmentation import texts

    return texts.described(name)

  def augmented_copy(self, row, digest, augment, number):
    texts = augment.copy(row, number)
    return texts, content_hash([text.encode() for text in texts])

  def preview(self, row):
    return {"text": textwrap.shorten(" / ".join(row), MAX_PREVIEW, placeholder=" …")}
