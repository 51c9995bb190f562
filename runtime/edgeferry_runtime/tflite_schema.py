"""The layout of a TFLite file: every table of its schema, one word per slot (see `flatbuffer.parse_layouts`).

Source: tflite/schema/schema.fbs of LiteRT 2.1. Options without fields are left out; any table is checked for
its own bounds, so that files of newer schemas pass as far as they are known.
"""

from __future__ import annotations

from collections.abc import Mapping

SCHEMA: Mapping[str, str] = {
    "Model": "4 [OperatorCode [SubGraph s [Buffer [4 [Metadata [SignatureDef [ExternalBufferGroup [ExternalBuffer",
    "OperatorCode": "1 s 4 4",
    "SubGraph": "[Tensor [4 [4 [Operator s 4",
    "Tensor": "[4 1 4 s QuantizationParameters 1 SparsityParameters [4 1 [VariantSubType 4",
    "Operator": "4 [4 [4 1 BuiltinOptions? [1 1 [1 [4 8 8 1 BuiltinOptions2? 4",
    "Buffer": "[1 8 8",
    "Metadata": "s 4",
    "SignatureDef": "[TensorMap [TensorMap s 4 4",
    "TensorMap": "s 4",
    "QuantizationParameters": "[4 [4 [4 [8 1 QuantizationDetails? 4",
    "SparsityParameters": "[4 [4 [DimensionMetadata",
    "DimensionMetadata": "1 4 1 SparseIndexVector? 1 SparseIndexVector?",
    "VariantSubType": "[4 1 1",
    "ExternalBuffer": "4 4 8 8 s",
    "ExternalBufferGroup": "s",
    "BuiltinOptions.1": "1 4 4 1 4 4 1",  # Conv2DOptions
    "BuiltinOptions.2": "1 4 4 4 1 4 4",  # DepthwiseConv2DOptions
    "BuiltinOptions.3": "4 [4 [4",  # ConcatEmbeddingsOptions
    "BuiltinOptions.4": "1",  # LSHProjectionOptions
    "BuiltinOptions.5": "1 4 4 4 4 1",  # Pool2DOptions
    "BuiltinOptions.6": "4 1 1",  # SVDFOptions
    "BuiltinOptions.7": "1 1",  # RNNOptions
    "BuiltinOptions.8": "1 1 1 1 1 [1",  # FullyConnectedOptions
    "BuiltinOptions.9": "4",  # SoftmaxOptions
    "BuiltinOptions.10": "4 1",  # ConcatenationOptions
    "BuiltinOptions.11": "1 1",  # AddOptions
    "BuiltinOptions.12": "1",  # L2NormOptions
    "BuiltinOptions.13": "4 4 4 4",  # LocalResponseNormalizationOptions
    "BuiltinOptions.14": "1 4 4 1 1",  # LSTMOptions
    "BuiltinOptions.15": "1 1 1 1",  # ResizeBilinearOptions
    "BuiltinOptions.16": "4",  # CallOptions
    "BuiltinOptions.17": "[4",  # ReshapeOptions
    "BuiltinOptions.18": "4 4 1",  # SkipGramOptions
    "BuiltinOptions.19": "4",  # SpaceToDepthOptions
    "BuiltinOptions.20": "1",  # EmbeddingLookupSparseOptions
    "BuiltinOptions.21": "1",  # MulOptions
    "BuiltinOptions.23": "4 4",  # GatherOptions
    "BuiltinOptions.27": "1",  # ReducerOptions
    "BuiltinOptions.28": "1 1",  # SubOptions
    "BuiltinOptions.29": "1",  # DivOptions
    "BuiltinOptions.30": "[4",  # SqueezeOptions
    "BuiltinOptions.31": "1 1 1",  # SequenceRNNOptions
    "BuiltinOptions.32": "4 4 4 4 4 1",  # StridedSliceOptions
    "BuiltinOptions.35": "4",  # SplitOptions
    "BuiltinOptions.37": "1 1",  # CastOptions
    "BuiltinOptions.40": "1",  # ArgMaxOptions
    "BuiltinOptions.49": "1 4 4 1 1",  # TransposeConvOptions
    "BuiltinOptions.50": "1",  # SparseToDenseOptions
    "BuiltinOptions.55": "1",  # ShapeOptions
    "BuiltinOptions.57": "1",  # ArgMinOptions
    "BuiltinOptions.58": "4 4 4 1",  # FakeQuantOptions
    "BuiltinOptions.59": "4 4",  # PackOptions
    "BuiltinOptions.61": "4",  # OneHotOptions
    "BuiltinOptions.64": "4 4",  # UnpackOptions
    "BuiltinOptions.69": "1 4 4 1 1 1",  # BidirectionalSequenceLSTMOptions
    "BuiltinOptions.70": "1 1 1 1",  # BidirectionalSequenceRNNOptions
    "BuiltinOptions.71": "1 4 4 1 1 1",  # UnidirectionalSequenceLSTMOptions
    "BuiltinOptions.74": "1 1",  # ResizeNearestNeighborOptions
    "BuiltinOptions.75": "4",  # LeakyReluOptions
    "BuiltinOptions.77": "1",  # MirrorPadOptions
    "BuiltinOptions.79": "4",  # SplitVOptions
    "BuiltinOptions.80": "1",  # UniqueOptions
    "BuiltinOptions.87": "4 4",  # ReverseSequenceOptions
    "BuiltinOptions.92": "4 4",  # IfOptions
    "BuiltinOptions.93": "4 4",  # WhileOptions
    "BuiltinOptions.94": "4",  # DepthToSpaceOptions
    "BuiltinOptions.101": "1 1 1",  # BatchMatMulOptions
    "BuiltinOptions.102": "1 1",  # CumsumOptions
    "BuiltinOptions.103": "4",  # CallOnceOptions
    "BuiltinOptions.106": "1 4 4 4 1 4 4 4",  # Conv3DOptions
    "BuiltinOptions.107": "4 1 1",  # HashtableOptions
    "BuiltinOptions.111": "s s",  # VarHandleOptions
    "BuiltinOptions.114": "8 8",  # RandomOptions
    "BuiltinOptions.115": "[4",  # BucketizeOptions
    "BuiltinOptions.116": "1",  # GeluOptions
    "BuiltinOptions2.1": "8",  # StablehloConcatenateOptions
    "BuiltinOptions2.2": "[8",  # StablehloBroadcastInDimOptions
    "BuiltinOptions2.3": "[8 [8 [8",  # StablehloSliceOptions
    "BuiltinOptions2.4": "[8 [8 [8 [8 [1 8 8 [8 8 8 [8 8 8 [8 8 8 [4",  # StablehloConvolutionOptions
    "BuiltinOptions2.5": "s 1 s 4 [4 [1",  # StablehloCustomCallOptions
    "BuiltinOptions2.6": "[8 4",  # StablehloReduceOptions
    "BuiltinOptions2.7": "1 [8 [8 [8 8 1 4",  # StablehloScatterOptions
    "BuiltinOptions2.8": "4 4",  # StablehloCompareOptions
    "BuiltinOptions2.9": "[8",  # StablehloDynamicSliceOptions
    "BuiltinOptions2.10": "[8 [8 [8",  # StablehloPadOptions
    "BuiltinOptions2.11": "8",  # StablehloIotaOptions
    "BuiltinOptions2.12": "[8 [8 [8 [8 [4",  # StablehloDotGeneralOptions
    "BuiltinOptions2.13": "[8 [8 [8 [8 [8 4",  # StablehloReduceWindowOptions
    "BuiltinOptions2.14": "8 1 4",  # StablehloSortOptions
    "BuiltinOptions2.15": "4 4",  # StablehloWhileOptions
    "BuiltinOptions2.16": "[8 [8 [8 8 [8 1",  # StablehloGatherOptions
    "BuiltinOptions2.17": "[8",  # StablehloTransposeOptions
    "BuiltinOptions2.19": "1",  # StablehloRngBitGeneratorOptions
    "BuiltinOptions2.20": "4",  # ReduceWindowOptions
    "BuiltinOptions2.21": "s 4 [1 1 4",  # StableHLOCompositeOptions
    "BuiltinOptions2.23": "[4",  # StablehloCaseOptions
    "QuantizationDetails.1": "[1",  # CustomQuantization
    "QuantizationDetails.2": "4 4 4 [4",  # BlockwiseQuantization
    "QuantizationDetails.3": "4 4 4 [4",  # MultiAxisQuantization
    "SparseIndexVector.1": "[4",  # Int32Vector
    "SparseIndexVector.2": "[2",  # Uint16Vector
    "SparseIndexVector.3": "[1",  # Uint8Vector
}
