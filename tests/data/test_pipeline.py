"""What the network is fed: nothing dropped, nothing twice, the same order from the same seed."""

import itertools
import types

import numpy as np
import pytest
from tiny_data import TEXTS, Lengths

from tl_app.data import modalities, pipeline, training_data
from tl_app.data.examples import Examples, Inputs
from tl_app.data.splitting.splits import Splits
from tl_app.features import frozen


@pytest.mark.parametrize("batch_size", [1, 4, 8, 37, 64])
def test_inference_counts_every_example_once_in_order(batch_size):
  dataset, positions = pipeline.for_inference(TEXTS, Lengths(), batch_size)
  batches = [batch.numpy() for batch in dataset]
  assert {len(batch) for batch in batches} == {batch_size}
  outputs = pipeline.restore(np.concatenate(batches), positions)
  assert outputs[:, 0].tolist() == [len(text) for text in TEXTS.array()]


def test_data_sets_share_one_trace_of_the_preprocessing():
  class Counted(Lengths):
    traces = 0

    def __call__(self, texts):
      Counted.traces += 1
      return super().__call__(texts)

  preprocess = Counted()
  first, second = ([*pipeline.for_inference(TEXTS, preprocess, size)[0].as_numpy_iterator()] for size in (8, 8))
  assert Counted.traces == 1 and np.array_equal(first, second)
  preprocess.max_length = 4
  pipeline.for_inference(TEXTS, preprocess, 8)
  assert Counted.traces == 2
  assert not preprocess._trackable_children(), "the functions are not part of an export"


def test_inference_puts_texts_of_one_length_together():
  dataset, _ = pipeline.for_inference(TEXTS, Lengths(), 8)
  assert [int(batch[0, 1]) for batch in dataset] == [8, 16, 24, 32, 37]


def test_a_run_counts_the_tokens_of_its_texts_once(monkeypatch):
  count, counted = pipeline.token_counts, []
  monkeypatch.setattr(
    pipeline, "token_counts", lambda preprocess, texts: counted.extend(texts.array()) or count(preprocess, texts)
  )
  examples = Examples(TEXTS.array(), TEXTS, *[TEXTS.array()] * 3, [], "texts")
  split = Splits(examples, np.arange(20), np.arange(20, 28), np.arange(28, 36), [], {})
  data = training_data.make(examples, split, np.zeros(len(examples), np.int32))
  lengths = frozen.with_lengths(data, types.SimpleNamespace(preprocess=Lengths())).lengths
  assert counted == list(TEXTS[:36].array())
  assert lengths.tolist() == [*map(len, TEXTS[:36].array()), 0]
  order = [pipeline.for_inference(TEXTS[:36], Lengths(), 8, known)[1].tolist() for known in (None, lengths[:36])]
  assert order[0] == order[1]


def _training(targets, seed):
  batches = pipeline.index_batches(37, 8, seed, pipeline.token_counts(Lengths(), TEXTS))
  return pipeline.whole(pipeline.training_steps(TEXTS, np.asarray(targets, np.int32), Lengths(), batches))


def _seen(seed, batches):
  dataset = _training(range(37), seed)
  return [targets.numpy().tolist() for _, targets in itertools.islice(dataset, batches)]


def test_training_uses_every_example_equally_often_in_another_order_each_time():
  # 37 windows of 4 batches of 8 are 32 passes.
  stream = list(itertools.chain.from_iterable(_seen(seed=3, batches=37 * 4)))
  np.testing.assert_array_equal(np.bincount(stream), np.full(37, 32))
  windows = [stream[start : start + 32] for start in range(0, len(stream), 32)]
  assert len(set(windows[0])) == 32
  assert windows[0] != sorted(windows[0])
  assert windows[0] != windows[1]


def test_training_batches_hold_texts_of_like_length_in_random_order():
  dataset = _training(range(37), 3)
  batches = [inputs.numpy()[:, 0] for inputs, _ in itertools.islice(dataset, 40)]
  assert np.mean([lengths.max() - lengths.min() for lengths in batches]) < 12
  longest = [int(np.argmax([lengths.max() for lengths in batches[k : k + 4]])) for k in range(0, 40, 4)]
  assert len(set(longest)) > 1


def test_training_order_depends_on_the_seed_alone():
  dataset = _training(range(37), 3)
  orders = [[t.numpy().tolist() for _, t in itertools.islice(dataset, 6)] for _ in range(2)]
  # A second iterator over the same dataset starts again: Keras makes one under a distribution strategy.
  assert orders[0] == orders[1] == _seen(3, 6)
  assert _seen(4, 6) != _seen(3, 6)


def test_training_targets_stay_with_their_text():
  for inputs, labels in itertools.islice(_training([len(text) for text in TEXTS.array()], 0), 10):
    np.testing.assert_array_equal(inputs[:, 0], labels)


def test_features_stream_like_examples():
  features = np.arange(37, dtype=np.float32)[:, None]
  stream = pipeline.whole(pipeline.feature_steps(features, np.arange(37, dtype=np.int32), 8, seed=3))
  batches = [(x.numpy()[:, 0].tolist(), y.numpy().tolist()) for x, y in itertools.islice(stream, 6)]
  assert all(x == y for x, y in batches)
  assert len(set(sum((y for _, y in batches[:4]), []))) == 32


def test_raw_bytes_are_what_a_client_sends(tmp_path):
  path = tmp_path / "a.png"
  path.write_bytes(b"encoded")
  assert modalities.of("text").encode("é") == ("é".encode(), "")
  assert [modalities.of("image").encode(value) for value in (str(path), b"bytes")] == [(b"encoded", ""), (b"bytes", "")]


def test_an_unknown_modality_is_an_error():
  with pytest.raises(ValueError, match="unknown modality 'audio': known are text, image"):
    pipeline.for_inference(Inputs.of("audio", TEXTS.array()), Lengths(), 8)


def test_every_pass_has_an_order_of_its_own_that_the_seed_decides():
  passes = [[batch.numpy().tolist() for batch in pipeline.index_batches(12, 12, seed).take(3)] for seed in (0, 0, 1)]
  assert all(sorted(order) == list(range(12)) for orders in passes for order in orders)
  assert passes[0] == passes[1] != passes[2]
  assert len(set(map(tuple, passes[0]))) == 3
