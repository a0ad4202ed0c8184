"""TensorFlow operations that reach beyond a model: files, Python, the network, other processes.

A stateless operation is pure unless it stands in `REFUSED`. A stateful one is accepted only if it stands in `HARMLESS`:
a new version of TensorFlow brings new operations, and an unknown effect is no reason for trust.
"""

READS, WRITES = "reads files", "writes files"
PYTHON = "runs Python code"
NETWORK = "uses the network or other processes"
CODE = "runs code that is not in the graph"
ENDS = "ends or stops the process"
EFFECT = "has an effect outside the model that is not known to be harmless"
UNKNOWN = "is no operation of TensorFlow or tensorflow_text"

# Operations that read one file, with the position of its name among the inputs: an asset of the model may be read.
READS_ASSET = {"ReadFile": 0, "InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}
# Operations of the functions that save and restore the variables, with the position of the file name.
SAVES = {name: 0 for name in ("Save", "SaveSlices", "SaveV2", "Restore", "RestoreSlice", "RestoreV2")} | {
  "MergeV2Checkpoints": 1
}

_NAMES = {
  READS: """
  MatchingFiles MatchingFilesDataset ExperimentalMatchingFilesDataset GenerateVocabRemapping LoadAndRemapMatrix
  CSVDataset CSVDatasetV2 ExperimentalCSVDataset FixedLengthRecordDataset FixedLengthRecordDatasetV2 LMDBDataset
  ExperimentalLMDBDataset LoadDataset SqlDataset ExperimentalSqlDataset TFRecordDataset TFRecordDatasetV2
  TextLineDataset ListSnapshotChunksDataset SnapshotChunkDataset SnapshotDatasetReader SnapshotNestedDatasetReader
  FixedLengthRecordReader FixedLengthRecordReaderV2 IdentityReader IdentityReaderV2 LMDBReader TFRecordReader
  TFRecordReaderV2 TextLineReader TextLineReaderV2 WholeFileReader WholeFileReaderV2 ReaderRead ReaderReadV2
  ReaderReadUpTo ReaderReadUpToV2 RecordInput DTensorRestoreV2 InitializeTRTResource
  """,
  WRITES: """
  WriteFile SaveDataset SaveDatasetV2 DistributedSave DatasetToTFRecord ExperimentalDatasetToTFRecord CacheDataset
  CacheDatasetV2 SnapshotDataset SnapshotDatasetV2 DumpTensor CreateSummaryFileWriter CreateSummaryDbWriter
  SummaryWriter ImportEvent WriteSummary WriteAudioSummary WriteGraphSummary WriteHistogramSummary WriteImageSummary
  WriteRawProtoSummary WriteScalarSummary FlushSummaryWriter CloseSummaryWriter DebugIdentity DebugIdentityV2
  DebugIdentityV3 DebugNanCount DebugNumericSummary CalibrationStatisticsSaver
  """,
  PYTHON: "PyFunc PyFuncStateless EagerPyFunc GeneratorDataset",
  NETWORK: """
  RpcCall RpcCheckStatus RpcClient RpcGetValue RpcServer RpcServerRegister RpcServerStart DeleteRpcFutureResource
  RemoteCall Send Recv _Send _Recv _HostSend _HostRecv RegisterDataset RegisterDatasetV2 DataServiceDataset
  DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4 FileSystemSetConfiguration WorkerHeartbeat
  """,
  CODE: """
  DatasetFromGraph RemoteFusedGraphExecute TRTEngineOp CreateTRTResourceHandle MlirPassthroughOp XlaCustomCall
  XlaCustomCallV2 XlaLaunch XlaLaunchV2 DeserializeIterator CustomAggregator
  """,
  ENDS: "Abort SleepOp SleepIdentityOp SleepDataset ExperimentalSleepDataset ShutdownDistributedTPU ShutdownTPUSystem",
}
REFUSED = {name: reason for reason, names in _NAMES.items() for name in names.split()}

# Stateful operations whose state is that of the model, of a random generator or of a function call.
_HARMLESS = """
  VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp VarIsInitializedOp VariableShape
  DestroyResourceOp DisableCopyOnRead Variable VariableV2 TemporaryVariable ResourceGather ResourceGatherNd
  ResourceScatterAdd ResourceScatterDiv ResourceScatterMax ResourceScatterMin ResourceScatterMul
  ResourceScatterNdAdd ResourceScatterNdMax ResourceScatterNdMin ResourceScatterNdSub ResourceScatterNdUpdate
  ResourceScatterSub ResourceScatterUpdate ResourceStridedSliceAssign ResourceCountUpTo IsResourceHandleRefCounting
  HashTable HashTableV2 AnonymousHashTable MutableHashTable MutableHashTableV2 AnonymousMutableHashTable
  MutableHashTableOfTensors MutableHashTableOfTensorsV2 AnonymousMutableHashTableOfTensors MutableDenseHashTable
  MutableDenseHashTableV2 AnonymousMutableDenseHashTable InitializeTableV2 InitializeTableFromDataset
  LookupTableExportV2 LookupTableFindV2 LookupTableImportV2 LookupTableInsertV2 LookupTableRemoveV2 LookupTableSizeV2
  SentencepieceOp SentencepieceDetokenizeOp SentencepieceIdToStringOp SentencepieceStringToIdOp
  SentencepieceTokenizeOp SentencepieceTokenizeWithOffsetsOp SentencepieceVocabSizeOp WordpieceTokenizeWithOffsets
  StatefulPartitionedCall If While Case Assert CheckNumerics CheckNumericsV2 Print PrintV2 Empty DeepCopy
  GuaranteeConst Timestamp DeviceIndex IsTensorFloat32Enabled _Arg _Retval
  TensorArray TensorArrayV2 TensorArrayV3 TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayGrad
  TensorArrayGradV2 TensorArrayGradV3 TensorArrayGradWithShape TensorArrayReadV3 TensorArrayScatterV3
  TensorArraySizeV3 TensorArraySplitV3 TensorArrayWriteV3 Stack StackV2 StackPushV2 StackPopV2 StackCloseV2
  CudnnRNN CudnnRNNV2 CudnnRNNV3 CudnnRNNBackprop CudnnRNNBackpropV2 CudnnRNNBackpropV3
  Multinomial NonDeterministicInts ParameterizedTruncatedNormal RandomCrop RandomGamma RandomPoisson RandomPoissonV2
  RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt RngReadAndSkip RngSkip SampleDistortedBoundingBox
  SampleDistortedBoundingBoxV2 StatefulRandomBinomial StatefulStandardNormal StatefulStandardNormalV2
  StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt StatefulUniformInt StatelessRandomGetAlg
  TruncatedNormal FixedUnigramCandidateSampler
  RangeDataset TensorDataset TensorSliceDataset SparseTensorSliceDataset ReduceDataset DatasetToSingleElement
  XlaCallModule
"""
HARMLESS = frozenset(_HARMLESS.split())
