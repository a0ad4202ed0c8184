"""SavedModels that do something outside themselves, one kind each. Each writer returns the directory as a string.

All are image modules of one kernel, [batch, height, width, 3] to [batch, 8], so that every command would take them.
"""

import pathlib

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2


def writes_a_file(directory, target):
  """Calling it writes the file `target`."""
  return _save(directory, lambda x: _after(x, tf.io.write_file(str(target), "written by a model")))


def reads_a_file(directory, target):
  """Its features depend on the file `target`."""
  return _save(directory, lambda x: x + tf.cast(tf.strings.length(tf.io.read_file(str(target))), tf.float32))


def runs_python(directory, target):
  """Calling it runs a function of Python."""
  return _save(directory, lambda x: tf.ensure_shape(tf.numpy_function(lambda y: y, [x], tf.float32), x.shape))


def reads_lines_in_a_branch(directory, target):
  """A branch reads lines of a file by a dataset."""

  def lines():
    return tf.data.TextLineDataset(str(target)).reduce(0.0, lambda total, _: total + 1.0)

  return _save(directory, lambda x: x + tf.cond(tf.shape(x)[0] > 100, lines, lambda: 0.0))


def saves_in_a_loop(directory, target):
  """Calling it writes a checkpoint from the body of a loop."""

  def body(i, x):
    tf.raw_ops.SaveV2(prefix=str(target), tensor_names=["a"], shape_and_slices=[""], tensors=[x])
    return i + 1, x

  return _save(directory, lambda x: tf.while_loop(lambda i, _: i < 1, body, [0, x])[1])


def prints_to_a_file(directory, target):
  """Calling it appends a line to the file `target`."""
  return _save(directory, lambda x: _after(x, tf.print("printed", output_stream=f"file://{target}")))


def parses_by_a_descriptor(directory, target):
  """An operation parses its input by a description in the file `target`."""

  def forward(x):
    raw = tf.raw_ops.DecodeProtoV2(
      bytes=tf.zeros([1], tf.string), message_type="a.b", field_names=[], output_types=[], descriptor_source=str(target)
    )
    return _after(x, raw.sizes)

  return _save(directory, forward)


def builds_a_graph_from_text(directory, target):
  """An operation runs a graph that is a text in the module."""
  return _save(directory, lambda x: _after(x, tf.raw_ops.DatasetFromGraph(graph_def=tf.constant("graph"))))


def stops_the_process(directory, target):
  """Calling it with a large batch ends the process."""
  ends = lambda x: _after(x, tf.raw_ops.Abort(error_msg="end", exit_without_error=True))  # noqa: E731
  return _save(directory, lambda x: tf.cond(tf.shape(x)[0] > 100, lambda: ends(x), lambda: x))


def calls_a_server(directory, target):
  """It opens a connection to another process."""
  return _with_operation(directory, "RpcClient")


def writes_when_loaded(directory, target):
  """The initialiser of a resource writes the file `target`: TensorFlow runs it while it loads the module."""

  class Resource(tf.saved_model.experimental.TrackableResource):
    def _create_resource(self):
      return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

    def _initialize(self):
      tf.io.write_file(str(target), "written by an initialiser")

  return _save(directory, lambda x: x, resource=Resource())


def reads_another_asset(directory, target):
  """A table is filled from an asset; the name of its file leads to `target`, outside of the module."""
  return _edited(_with_table(directory), lambda meta: setattr(meta.asset_file_def[0], "filename", str(target)))


def links_an_asset(directory, target):
  """The file of an asset is a symbolic link to `target`."""
  (asset,) = pathlib.Path(_with_table(directory), "assets").iterdir()
  asset.unlink()
  asset.symlink_to(target)
  return str(directory)


def reads_a_constant_as_asset(directory, target):
  """The name of the file that fills a table is a constant in place of an asset."""

  def edit(meta):
    constant = meta.graph_def.node.add(name="path", op="Const")
    constant.attr["dtype"].type = tf.string.as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(str(target)))
    for node in meta.object_graph_def.nodes:
      if node.WhichOneof("kind") == "asset":
        node.constant.operation = "path"

  return _edited(_with_table(directory), edit)


def calls_an_unknown_operation(directory, target):
  """It has an operation of a library that is not installed."""
  return _with_operation(directory, "ForeignOp")


def restores_through_its_saver(directory, target):
  """A method of the module is the function that restores variables, with any name of a file."""

  def edit(meta):
    name = next(f.signature.name for f in meta.graph_def.library.function if "traced_restore" in f.signature.name)
    meta.object_graph_def.concrete_functions[name].SetInParent()

  return _edited(_save(directory, lambda x: x), edit)


def saves_as_its_saver_in_the_format_of_tensorflow_1(directory, target):
  """A signature of a graph writes a checkpoint; its file is what the saver writes where it is told nothing else."""

  def change(graph, x):
    save = tf.raw_ops.SaveV2(prefix=_saver_file(graph), tensor_names=["a"], shape_and_slices=[""], tensors=[x])
    return _after(x, save)

  return _save_v1(directory, target, change)


def restores_as_its_saver_in_the_format_of_tensorflow_1(directory, target):
  """The features of a graph depend on a checkpoint, whose file is what the saver reads where it is told nothing."""

  def change(graph, x):
    (found,) = tf.raw_ops.RestoreV2(
      prefix=_saver_file(graph), tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    )
    return x + tf.reduce_sum(found)

  return _save_v1(directory, target, change)


def saves_when_loaded_in_the_format_of_tensorflow_1(directory, target):
  """Loading writes a checkpoint; the name of its file is joined from constants none of which is a path."""

  def change(graph, x):
    *parts, name = pathlib.Path(target).parts[1:]
    path = tf.raw_ops.StringJoin(inputs=["", *parts, name], separator="/")
    save = tf.raw_ops.SaveV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[[1.0]])
    graph.get_operation_by_name("save/restore_all")._add_control_input(save)
    return x

  return _save_v1(directory, target, change)


def reads_its_asset_unfed_in_the_format_of_tensorflow_1(directory, target):
  """A signature reads the asset, but in a signature its name is the constant that TensorFlow replaces elsewhere."""
  words = pathlib.Path(f"{directory}_words.txt")
  words.write_text("a")

  def change(graph, x):
    asset = tf.constant(str(words), name="asset")
    graph.add_to_collection(tf.compat.v1.GraphKeys.ASSET_FILEPATHS, asset)
    return x + tf.cast(tf.strings.length(tf.io.read_file(asset)), tf.float32)

  def edit(meta):
    (node,) = (node for node in meta.graph_def.node if node.name == "asset")
    node.attr["value"].tensor.string_val[:] = [str(target).encode()]

  return _edited(_save_v1(directory, target, change), edit)


def harmless_in_the_format_of_tensorflow_1(directory):
  """A graph with a signature, a sharded saver, and a table that its initialiser fills from an asset."""
  words = pathlib.Path(f"{directory}_words.txt")
  words.write_text("a\nb\n")

  def change(graph, x):
    asset = tf.constant(str(words))
    graph.add_to_collection(tf.compat.v1.GraphKeys.ASSET_FILEPATHS, asset)
    return x + tf.cast(_table(asset).lookup(tf.constant("b")), tf.float32)

  return _save_v1(directory, "model", change)


# {writer: the operation that a message names, or words of it}.
HOSTILE = {
  writes_a_file: "WriteFile, which writes files",
  reads_a_file: "ReadFile, which reads files",
  runs_python: "PyFunc, which runs Python code",
  reads_lines_in_a_branch: "TextLineDataset, which reads files",
  saves_in_a_loop: "SaveV2, which writes files",
  prints_to_a_file: "PrintV2, which writes files",
  parses_by_a_descriptor: "DecodeProtoV2, which reads files",
  builds_a_graph_from_text: "DatasetFromGraph, which runs code that is not in the graph",
  stops_the_process: "Abort, which ends or stops the process",
  calls_a_server: "RpcClient, which uses the network",
  writes_when_loaded: "WriteFile, which writes files",
  reads_another_asset: "a file outside the model",
  links_an_asset: "a file outside the model",
  reads_a_constant_as_asset: "InitializeTableFromTextFileV2, which reads files",
  calls_an_unknown_operation: "ForeignOp, which is no operation of TensorFlow",
  restores_through_its_saver: "RestoreV2, which reads files",
  saves_as_its_saver_in_the_format_of_tensorflow_1: "SaveV2, which writes files",
  restores_as_its_saver_in_the_format_of_tensorflow_1: "RestoreV2, which reads files",
  saves_when_loaded_in_the_format_of_tensorflow_1: "SaveV2, which writes files",
  reads_its_asset_unfed_in_the_format_of_tensorflow_1: "ReadFile, which reads files",
}


def _after(x, operation):
  with tf.control_dependencies([operation]):
    return tf.identity(x)


def _save(directory, change, **tracked):
  module = tf.train.Checkpoint(kernel=tf.Variable(tf.ones([3, 8]), name="stem/kernel"), **tracked)
  module.__call__ = tf.function(
    lambda images: change(tf.reduce_mean(images, [1, 2]) @ module.kernel),
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="images")],
  )
  tf.saved_model.save(module, str(directory))
  return str(directory)


def _save_v1(directory, target, change):
  """Saves a graph with a signature alone; its saver names `target` where nobody gives it a name."""
  v1 = tf.compat.v1
  with tf.Graph().as_default() as graph, v1.Session() as session:
    images = v1.placeholder(tf.float32, [None, None, None, 3], name="images")
    kernel = v1.get_variable("stem/kernel", initializer=tf.ones([3, 8]), use_resource=True)
    session.run(kernel.initializer)
    saver = v1.train.Saver(filename=str(target), sharded=True)
    features = change(graph, tf.reduce_mean(images, [1, 2]) @ kernel)
    session.run(v1.tables_initializer())
    signature = v1.saved_model.predict_signature_def({"images": images}, {"features": features})
    builder = v1.saved_model.Builder(str(directory))
    assets = graph.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
    builder.add_meta_graph_and_variables(
      session,
      ["serve"],
      {"serving_default": signature},
      assets_collection=assets or None,
      saver=saver,
      main_op=v1.tables_initializer(),
    )
    builder.save()
  return str(directory)


def _saver_file(graph):
  """Returns the tensor with the name of the file of the saver."""
  return graph.get_tensor_by_name("save/Const:0")


def _with_operation(directory, name):
  def edit(meta):
    nodes = [node for function in meta.graph_def.library.function for node in function.node_def]
    next(node for node in nodes if node.op == "AddV2").op = name

  return _edited(_save(directory, lambda x: x + 1.0), edit)


def _with_table(directory):
  words = pathlib.Path(f"{directory}_words.txt")
  words.write_text("a\nb\n")
  table = _table(str(words))
  change = lambda x: x + tf.cast(table.lookup(tf.constant("a")), tf.float32)  # noqa: E731
  return _save(directory, change, table=table)


def _table(words):
  lines = tf.lookup.TextFileIndex
  initializer = tf.lookup.TextFileInitializer(
    words, tf.string, lines.WHOLE_LINE, tf.int64, lines.LINE_NUMBER, vocab_size=2
  )
  return tf.lookup.StaticHashTable(initializer, -1)


def _edited(directory, edit):
  path = pathlib.Path(directory, "saved_model.pb")
  model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  edit(model.meta_graphs[0])
  path.write_bytes(model.SerializeToString())
  return str(directory)
