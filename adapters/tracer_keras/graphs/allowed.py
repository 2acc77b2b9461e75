"""Which operations a graph may hold when nobody vouches for it.

TensorFlow's own ``is_stateful`` says too little: ``ReadFile``, ``ImmutableConst`` and ``Abort`` count as stateless.
"""

from __future__ import annotations

from tracer_keras.vocabulary import words

_ELEMENTWISE = words(
    "Abs Acos Acosh Add AddN AddV2 AccumulateNV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0 BesselI0e "
    "BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc BiasAdd "
    "BiasAddV1 BitwiseAnd BitwiseOr BitwiseXor Cast Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh Dawsn Digamma "
    "Div DivNoNan Elu Equal Erf Erfc Erfinv Exp Expint Expm1 Floor FloorDiv FloorMod FresnelCos FresnelSin Greater "
    "GreaterEqual Igamma Igammac Imag Inv Invert IsFinite IsInf IsNan LeakyRelu LeftShift Less LessEqual Lgamma Log "
    "Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual OnesLike "
    "Polygamma PopulationCount Pow Real RealDiv Reciprocal Relu Relu6 RightShift Rint Round Rsqrt Select SelectV2 "
    "Selu Sigmoid Sign Sin Sinh Softplus Softsign Spence Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv "
    "TruncateMod Xdivy Xlog1py Xlogy ZerosLike Zeta"
)
_NEURAL = words(
    "AvgPool AvgPool3D BatchNormWithGlobalNormalization BlockLSTM BlockLSTMV2 Conv2D Conv2DBackpropInput "
    "Conv2DBackpropInputV2 Conv3D Conv3DBackpropInput Conv3DBackpropInputV2 Conv CTCGreedyDecoder "
    "CTCBeamSearchDecoder DepthwiseConv2dNative DepthwiseConv2dNativeBackpropInput Dilation2D FractionalAvgPool "
    "FractionalMaxPool FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D FusedResizeAndPadConv2D "
    "GRUBlockCell InTopK InTopKV2 L2Loss LRN LSTMBlockCell LogSoftmax MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax "
    "NthElement Softmax SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits TopK TopKV2 ApproxTopK "
    "FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantize "
    "QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 Dequantize "
    "QuantizeDownAndShrinkRange QuantizedAdd QuantizedAvgPool QuantizedBiasAdd QuantizedConcat QuantizedConv2D "
    "QuantizedMatMul QuantizedMaxPool QuantizedMul QuantizedRelu QuantizedRelu6 QuantizedReshape Requantize "
    "RequantizationRange"
)
_LINEAR = words(
    "BandedTriangularSolve BatchMatMul BatchMatMulV2 BatchMatMulV3 Cholesky Cross Eig Einsum LogMatrixDeterminant Lu "
    "MatMul MatrixDeterminant MatrixExponential MatrixInverse MatrixLogarithm MatrixSolve MatrixSolveLs "
    "MatrixSquareRoot MatrixTriangularSolve Qr SelfAdjointEigV2 SparseMatMul SparseTensorDenseMatMul Svd "
    "TridiagonalMatMul TridiagonalSolve"
)
_ARRAYS = words(
    "All Any ArgMax ArgMin BatchToSpace BatchToSpaceND Bincount Bitcast BroadcastArgs BroadcastTo Bucketize Concat "
    "ConcatOffset ConcatV2 ConjugateTranspose Cumprod Cumsum CumulativeLogsumexp DataFormatDimMap DataFormatVecPermute "
    "DenseBincount DepthToSpace Diag DiagPart DynamicPartition DynamicStitch ParallelDynamicStitch EditDistance "
    "EnsureShape EuclideanNorm ExpandDims ExtractImagePatches ExtractVolumePatches Fill Gather GatherNd GatherV2 "
    "Identity IdentityN InvertPermutation LinSpace ListDiff LowerBound MatrixBandPart MatrixDiag MatrixDiagPart "
    "MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 Max "
    "Mean Min MirrorPad OneHot Pack ParallelConcat Pad PadV2 PreventGradient Prod Range Rank Reshape Reverse "
    "ReverseSequence ReverseV2 Roll ScatterNd ScatterNdNonAliasingAdd SegmentMax SegmentMean SegmentMin SegmentProd "
    "SegmentSum SegmentMaxV2 SegmentMinV2 SegmentProdV2 SegmentSumV2 Shape ShapeN Size Slice Snapshot SpaceToBatch "
    "SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice Sum TensorScatterAdd TensorScatterMax "
    "TensorScatterMin TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate Tile Transpose Unique UniqueV2 "
    "UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentMax UnsortedSegmentMin "
    "UnsortedSegmentProd UnsortedSegmentSum UpperBound Where"
)
_SPARSE = words(
    "DeserializeSparse RaggedBincount RaggedGather RaggedRange RaggedTensorToSparse RaggedTensorToTensor "
    "RaggedTensorToVariant RaggedTensorFromVariant SparseAdd SparseBincount SparseConcat SparseDenseCwiseAdd "
    "SparseDenseCwiseDiv SparseDenseCwiseMul SparseFillEmptyRows SparseReduceMax SparseReduceSum SparseReorder "
    "SparseReshape SparseSegmentMean SparseSegmentMeanWithNumSegments SparseSegmentSqrtN "
    "SparseSegmentSqrtNWithNumSegments SparseSegmentSum SparseSegmentSumWithNumSegments SparseSlice SparseSoftmax "
    "SparseSplit SparseTensorDenseAdd SparseToDense"
)
_SIGNALS_AND_IMAGES = words(
    "AdjustContrastv2 AdjustHue AdjustSaturation AudioSpectrogram CombinedNonMaxSuppression CropAndResize "
    "DrawBoundingBoxes DrawBoundingBoxesV2 ExtractGlimpse ExtractGlimpseV2 FFT FFT2D FFT3D FFTND "
    "GenerateBoundingBoxProposals HSVToRGB HistogramFixedWidth IFFT IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND "
    "ImageProjectiveTransformV2 ImageProjectiveTransformV3 Mfcc NonMaxSuppression NonMaxSuppressionV2 "
    "NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps RFFT RFFT2D RFFT3D "
    "RFFTND RGBToHSV ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate"
)
_RANDOM = words(
    "Multinomial ParameterizedTruncatedNormal RandomGamma RandomPoisson RandomPoissonV2 RandomShuffle "
    "RandomStandardNormal RandomUniform RandomUniformInt StatelessMultinomial StatelessRandomBinomial "
    "StatelessRandomGammaV2 StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg "
    "StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson StatelessRandomUniform "
    "StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt "
    "StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessTruncatedNormal StatelessTruncatedNormalV2 "
    "TruncatedNormal"
)
_CONTROL = words(
    "Const ControlTrigger Enter Exit LoopCond Merge NextIteration NoOp Placeholder PlaceholderV2 "
    "PlaceholderWithDefault Switch Case If PartitionedCall StatefulPartitionedCall StatelessCase StatelessIf "
    "StatelessWhile While FakeParam ToBool GuaranteeConst CheckNumerics CheckNumericsV2 "
    "RefEnter RefExit RefIdentity RefMerge RefNextIteration RefSwitch"
)
_LISTS = words(
    "EmptyTensorList TensorListConcat TensorListConcatLists TensorListConcatV2 TensorListElementShape "
    "TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack "
    "TensorListPushBackBatch TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList "
    "TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack TensorArrayCloseV3 TensorArrayConcatV3 "
    "TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 "
    "TensorArrayWriteV3"
)
_VARIABLES = words("VarHandleOp ReadVariableOp ResourceGather ResourceGatherNd VariableShape Variable VariableV2")

ALLOWED = (
    _ELEMENTWISE | _NEURAL | _LINEAR | _ARRAYS | _SPARSE | _SIGNALS_AND_IMAGES | _RANDOM | _CONTROL | _LISTS
    | _VARIABLES
)  # fmt: skip
"""Operations that compute from their inputs, draw random numbers or read weights, and nothing else."""

RANDOM = _RANDOM | words("FractionalAvgPool FractionalMaxPool")

_SAVING = words(
    "MergeV2Checkpoints Restore RestoreSlice RestoreV2 Save SaveSlices SaveV2 ShardedFilename ShardedFilespec "
    "StringJoin DisableCopyOnRead RegexFullMatch StaticRegexFullMatch"
)
_ASSIGNING = words(
    "Assign AssignAdd AssignAddVariableOp AssignSub AssignSubVariableOp AssignVariableOp CountUpTo "
    "DestroyResourceOp IsVariableInitialized ResourceCountUpTo ScatterAdd ScatterSub ScatterUpdate "
    "VarIsInitializedOp"
)
_REPORTING = words(
    "Assert AudioSummary AudioSummaryV2 HistogramSummary ImageSummary MergeSummary Print PrintV2 ScalarSummary "
    "StringFormat TensorSummary TensorSummaryV2 Timestamp"
)
_UNUSED = words(
    "BroadcastGradientArgs Conv2DBackpropFilter Conv3DBackpropFilterV2 CudnnRNN CudnnRNNBackprop CudnnRNNBackpropV2 "
    "CudnnRNNBackpropV3 CudnnRNNV2 CudnnRNNV3 CudnnRNNParamsSize CudnnRNNCanonicalToParams "
    "CudnnRNNCanonicalToParamsV2 DepthwiseConv2dNativeBackpropFilter"
)
_TRAINING = ("Apply", "SparseApply", "ResourceApply", "ResourceSparseApply", "ResourceScatter")


def never_run(op: str) -> bool:
    """Whether an operation belongs to training, saving or reporting: a file may hold it, but it is cut off."""
    return (
        op in _SAVING
        or op in _ASSIGNING
        or op in _REPORTING
        or op in _UNUSED
        or op.startswith(_TRAINING)
        or op.endswith(("Grad", "GradV2", "GradV3", "GradWithArgmax"))
    )
