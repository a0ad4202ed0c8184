"""The bugs that are planted: a text of a module, what replaces it, and the tests that should fail."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Bug:
  """A bug.

  Attributes:
    module: path below tl_app/.
    text: what stands there once.
    planted: what replaces it.
    tests: paths below tests/, of the tests that should fail.
  """

  module: str
  text: str
  planted: str
  tests: tuple[str, ...]


TASKS, PIPELINE, OPTIMIZERS = "tasks/test_tasks.py", "data/test_pipeline.py", "training/test_optimizers.py"
CACHES, KEYS = "features/test_damaged_cache.py", "features/test_disk_cache.py"
BUNDLES = ("assets/test_bundles.py",)

# {what is wrong: `Bug`}.
BUGS = {
  # Stages.
  "top stages train in place of the named ones": Bug(
    "recipes/train_stages.py",
    "(*(name for name in backbone if name in wanted), HEAD), ALL",
    "(*backbone[-len(wanted) :], HEAD), ALL",
    ("recipes",),
  ),
  "BatchNormalization of frozen stages runs on batch statistics": Bug(
    "model/stages.py", "on_batch = set(phase.trains.train_stages)", "on_batch = set(model.stages)", ("model",)
  ),
  "the audit passes a frozen variable that changed": Bug(
    "model/audit.py",
    "if c and not before.trains[name][i] and not before.moves[name][i]",
    "if c and not before.trains[name][i] and before.moves[name][i]",
    ("model", "commands/test_train.py"),
  ),
  "biases have weight decay": Bug(
    "model/stages.py",
    "return not is_bias_or_norm(variable) and",
    "return len(variable.shape) > 0 and",
    ("model", OPTIMIZERS),
  ),
  # Optimizers and schedules.
  "layer decay counts from the input": Bug(
    "recipes/recipes.py", "for name in reversed(facts.stages) if", "for name in facts.stages if", ("recipes",)
  ),
  "the warm-up begins at a learning rate of 0": Bug(
    "training/optimizers.py", "ramp = (step + 1.0) /", "ramp = step /", (OPTIMIZERS,)
  ),
  "clipping ignores the size of a batch of tokens": Bug(
    "training/optimizers.py",
    "self._clip_norm * self.clip_share",
    "self._clip_norm",
    ("training/test_batch_tokens.py", OPTIMIZERS),
  ),
  "low-rank updates forget the initial weights": Bug(
    "training/optimizers.py",
    "tf.convert_to_tensor(base.value) + tf.reshape(product, variable.shape)",
    "tf.reshape(product, variable.shape)",
    (OPTIMIZERS,),
  ),
  "microbatches count double": Bug(
    "training/train_steps.py",
    "share = 1 / tf.cast(count, tf.float32)",
    "share = 2 / tf.cast(count, tf.float32)",
    ("training/test_train_steps.py",),
  ),
  # The order of the examples.
  "every epoch has the same order": Bug(
    "data/pipeline.py",
    "seeds = tf.stack([tf.constant(seed, tf.int64), k])\n    keys",
    "seeds = tf.stack([tf.constant(seed, tf.int64), 0 * k])\n    keys",
    (PIPELINE,),
  ),
  "outputs stay in the order of length": Bug(
    "data/pipeline.py",
    "ordered[positions] = outputs[: len(positions)]",
    "ordered[:] = outputs[: len(positions)]",
    (PIPELINE,),
  ),
  # Splits.
  "duplicates with another label may be separated": Bug(
    "data/splitting/duplicates.py",
    "return connected(groups, np.stack([np.arange(len(others)), first[inverse]], axis=1))",
    "return groups",
    ("data/test_splits.py",),
  ),
  "the seed does not change the split": Bug(
    "data/splitting/sampling.py", 'f"{seed}:{digest}"', 'f"{digest}"', ("data/test_sampling.py", "data/test_splits.py")
  ),
  "the earliest examples are tested": Bug(
    "data/splitting/sampling.py",
    "sorted(at_time, reverse=True)",
    "sorted(at_time)",
    ("data/test_sampling.py", "data/test_splits.py"),
  ),
  # Metrics and answers.
  "thresholds of several labels are reversed": Bug(
    "tasks/multi_label.py",
    "thresholds=tuple(float(value) for value in limits))",
    "thresholds=tuple(float(value) for value in limits[::-1]))",
    (TASKS, "tasks/test_calibration.py"),
  ),
  "macro F1 averages over absent classes": Bug(
    "tasks/statistics.py", "np.maximum(occurs.sum(axis=-1), 1)", "occurs.shape[-1]", ("tasks/test_statistics.py",)
  ),
  "McNemar's test is one-sided": Bug(
    "tasks/statistics.py",
    "only_first + only_second, 0.5).pvalue",
    'only_first + only_second, 0.5, "greater").pvalue',
    ("tasks",),
  ),
  "temperature multiplies the logits": Bug(
    "tasks/calibration.py",
    "statistics.cross_entropy(logits / np.exp(log_temperature), targets)",
    "statistics.cross_entropy(logits * np.exp(log_temperature), targets)",
    ("tasks/test_calibration.py",),
  ),
  "prediction sets are one rank too small": Bug(
    "tasks/prediction_sets.py",
    "(len(scores) + 1) * coverage - 1e-9",
    "len(scores) * coverage - 1e-9",
    ("tasks/test_prediction_sets.py",),
  ),
  # Selection and training.
  "the last epoch is kept": Bug(
    "training/callbacks.py",
    "if self._score is None or score > self._score:",
    "if self._score is None or score:",
    ("training/test_callbacks.py",),
  ),
  "contrast counts an example as its own positive": Bug(
    "training/contrastive.py", '[0], "float32") - itself', '[0], "float32")', ("training/test_contrastive.py",)
  ),
  "special tokens are masked": Bug(
    "training/pretraining/masked_tokens.py",
    "(places > 0) & (places < counts - 1)",
    "(places >= 0) & (places < counts)",
    ("training/test_pretraining_objectives.py", "training/test_pretraining.py"),
  ),
  "class weights are those of the frequency": Bug(
    "tasks/losses.py",
    "(1 - BETA) / (1 - BETA ** np.asarray(counts, np.float64))",
    "(1 - BETA ** np.asarray(counts, np.float64))",
    ("training/test_imbalance.py", TASKS),
  ),
  "logit adjustment has the wrong sign": Bug(
    "tasks/losses.py",
    "entropy(dense, logits + shift)",
    "entropy(dense, logits - shift)",
    ("training/test_imbalance.py", TASKS),
  ),
  # Features and their cache.
  "the cache key has no preprocessing": Bug(
    "features/frozen.py", "      preprocessing=self.preprocessing_facts(),\n", "", ("features",)
  ),
  "the key of the trunk has no stage": Bug("features/trunk.py", "    stage=lowest,\n", "", ("features",)),
  "a damaged row of the cache is used": Bug(
    "features/disk_cache.py",
    "if zlib.crc32(rows[start : start + n].tobytes()) == crc:",
    "if n >= 0:",
    ("features/test_damaged_cache.py",),
  ),
  "rows without an entry in the index move those that follow": Bug(
    "features/disk_cache.py", "    if unused:\n", "    if unused > 2**40:\n", (CACHES,)
  ),
  "two dtypes share an index": Bug("features/disk_cache.py", 'f"index.f{bits}.jsonl"', '"index.jsonl"', (CACHES,)),
  "what cannot be read back is the first row": Bug(
    "features/disk_cache.py",
    "    if (counts < 0).any():\n      # The cache may",
    "    if not writable and (counts < 0).any():\n      # The cache may",
    (CACHES,),
  ),
  "the cache key has no pooling": Bug("features/frozen.py", "      pooling=backbone.spec.pooling,\n", "", (KEYS,)),
  "the cache key has no length": Bug(
    "features/frozen.py", "[preprocess.identity, preprocess.max_length]", "[preprocess.identity]", (KEYS,)
  ),
  "the key of the trunk has no preprocessing": Bug(
    "features/trunk.py", "    preprocessing=features.preprocessing_facts(),\n", "", (KEYS,)
  ),
  "the most recently used features are deleted first": Bug(
    "features/eviction.py", "in sorted(caches)}", "in sorted(caches, reverse=True)}", (KEYS,)
  ),
  "facts about images outlive the rules that found them": Bug(
    "data/splitting/image_index.py", '[f"rules {RULES}", *libraries]', "libraries", ("data/test_image_index.py",)
  ),
  # Bundles, locks and flags.
  "a bundle does not keep the network off": Bug(
    "assets/assets.py",
    "offline = config.offline or bool(config.bundle)",
    "offline = config.offline",
    ("data/test_tfds.py",),
  ),
  "a bundle of another version is used": Bug(
    "assets/assets.py", "if revision and found.revision != revision:", "if not revision and revision:", BUNDLES
  ),
  "a lock does not see new files": Bug(
    "assets/locks.py", "    if name not in locked.files:\n", "    if name not in found.files:\n", BUNDLES
  ),
  "a lock names files outside its directory": Bug("assets/locks.py", '".." in parts or', "", BUNDLES),
  "a config.json of others decides that a backbone is trusted": Bug(
    "commands/cli.py", "dataclasses.replace(config, trust_backbone=False)", "config", ("commands/test_cli.py",)
  ),
  "the home directory after a form stays ~": Bug(
    "config/paths.py", "os.path.expanduser(value[len(form) :])", "value[len(form) :]", ("test_paths.py", "config")
  ),
  "splits may leave nothing to train on": Bug(
    "config/rules.py", "config.test_fraction >= 1:", "config.test_fraction > 1:", ("config",)
  ),
  "a run with other flags counts as the same": Bug(
    "config/names.py", '"offline", "bundle"', '"seed", "bundle"', ("config", "commands/test_run_differences.py")
  ),
  "padding is pooled": Bug(
    "backbones/pooling.py",
    "if mask is None:",
    "if mask is not None:",
    ("backbones/test_native.py", "backbones/test_token_features.py"),
  ),
  # Serving and preprocessing.
  "an empty batch gets the answer of a blank input": Bug(
    "serving/saved_model.py", "value[: tf.shape(inputs)[0]]", "value", ("serving",)
  ),
  "images are not antialiased": Bug(
    "preprocessing/image.py", "    antialias=True,\n", "    antialias=False,\n", ("preprocessing/test_image.py",)
  ),
  "standardisation leaves the mean": Bug(
    "model/heads.py",
    "_moments(features)[0].astype(np.float32)",
    "0 * _moments(features)[0].astype(np.float32)",
    ("model/test_heads.py",),
  ),
}
