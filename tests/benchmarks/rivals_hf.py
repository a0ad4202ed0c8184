"""Hugging Face's side of `rivals`, in an environment of its own: PyTorch, transformers and accelerate.

Reads a command a line from its input, "round" or "epochs", and answers each with a line of JSON.
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile
import time

import torch
import transformers


class Timed(transformers.TrainerCallback):
  """Notes when the step after `warmup` begins and when the last one ends."""

  def __init__(self, warmup):
    self.warmup = warmup
    self.start = self.end = (0.0, 0.0)

  def on_step_begin(self, args, state, control, **kwargs):
    if state.global_step == self.warmup:
      self.start = time.perf_counter(), time.process_time()

  def on_step_end(self, args, state, control, **kwargs):
    self.end = time.perf_counter(), time.process_time()


class Sampled(transformers.Trainer):
  """Trains on `steps` batches drawn from those that Trainer itself makes of an epoch; None: on all.

  The first ones would be the longest: each 50 batches are sorted.
  """

  steps = None

  def _get_train_sampler(self, *args, **kwargs):
    order = list(super()._get_train_sampler(*args, **kwargs))
    if self.steps is None:
      return order
    size = self.args.train_batch_size
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    return sum(random.Random(0).sample(batches, self.steps), [])


def trainer(flags, texts, labels, steps):
  """Returns the `Sampled` trainer of a fresh classifier and what times it; without `steps` for all epochs."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(flags.model)
  model = transformers.BertForSequenceClassification.from_pretrained(flags.model, num_labels=max(labels) + 1)
  ids = tokenizer(texts, truncation=True, max_length=flags.max_length)["input_ids"]
  arguments = transformers.TrainingArguments(
    tempfile.mkdtemp(),
    per_device_train_batch_size=flags.batch_size,
    train_sampling_strategy="group_by_length",
    learning_rate=flags.learning_rate,
    weight_decay=0.01,
    warmup_steps=flags.warmup,
    max_steps=steps or -1,
    num_train_epochs=flags.epochs,
    bf16=flags.bf16,
    use_cpu=True,
    save_strategy="no",
    logging_strategy="no",
    report_to=[],
    disable_tqdm=True,
  )
  timed = Timed(flags.warmup)
  own = Sampled(
    model=model,
    args=arguments,
    train_dataset=[{"input_ids": row, "labels": label} for row, label in zip(ids, labels)],
    processing_class=tokenizer,
    callbacks=[timed],
  )
  own.steps = steps
  return own, timed


def epochs(flags, data):
  """Returns which test examples it answers rightly after all epochs, [bool]."""
  own, _ = trainer(flags, data["texts"], data["labels"], None)
  own.train()
  ids = own.processing_class(data["test_texts"], truncation=True, max_length=flags.max_length)["input_ids"]
  found = own.predict([{"input_ids": row, "labels": label} for row, label in zip(ids, data["test_labels"])])
  # Not in the order of the examples: those too are grouped by length.
  return (found.predictions.argmax(axis=-1) == found.label_ids).tolist()


def main():
  """Answers the commands."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--model", required=True, help="Directory of a BERT with its tokenizer.")
  parser.add_argument("--data", required=True, help='JSON: "texts", "labels", "test_texts", ..')
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--steps", type=int, default=24)
  parser.add_argument("--warmup", type=int, default=3)
  parser.add_argument("--max_length", type=int, default=128)
  parser.add_argument("--epochs", type=int, default=1)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--learning_rate", type=float, default=5e-5)
  parser.add_argument("--bf16", action="store_true")
  flags = parser.parse_args()
  # Whatever else writes to standard output would stand among the answers.
  answers, sys.stdout = sys.stdout, sys.stderr
  torch.set_num_threads(flags.threads)
  data = json.loads(pathlib.Path(flags.data).read_text())
  own, timed = trainer(flags, data["texts"], data["labels"], flags.steps + flags.warmup)
  print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), file=answers, flush=True)
  for line in sys.stdin:
    if line.strip() == "epochs":
      answer = {"right": epochs(flags, data)}
    else:
      own.train()
      answer = {"seconds": [end - start for start, end in zip(timed.start, timed.end)]}
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
  main()
