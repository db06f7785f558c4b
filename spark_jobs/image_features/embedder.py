"""Backbone and fitted PCA as one LiteRT file: its input is an image, its output the image's embedding.

With this file an application can place a new photo among a run's images, without Python and without
preprocessing of its own. The nodes have no TensorFlow, so the flatbuffer itself is edited: operators
are added before the backbone's first and after its last.

    image (1, size, size, 3) uint8 -> CAST, preprocessing -> backbone -> minus mean, times components
    -> embedding (1, k) float32
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from image_features.contract import EMBEDDER, BackboneSpec, PcaMarker
from image_features.errors import Damaged, JobError, Stage, first_line
from image_features.images import CAFFE_MEAN
from image_features.pca import PcaModel
from image_features.storage import Storage

INPUT, OUTPUT = "image", "embedding"
SIGNATURE = "serving_default"

_IDENTIFIER = b"TFL3"  # of every LiteRT file, after the four bytes of the root's offset
# schema.fbs: Buffer.data has force_align 16, which the generated Python code ignores.
_ALIGNMENT = 16


class Embedder:
    """An opened ``embed.tflite``."""

    def __init__(self, model: bytes, uri: str) -> None:
        """Raises Damaged that names ``uri`` when the file is not one that ``fuse`` returns."""
        try:
            self._interpreter = Interpreter(model_content=model, num_threads=1)
            self._interpreter.allocate_tensors()
            [image], [embedding] = (
                self._interpreter.get_input_details(),
                self._interpreter.get_output_details(),
            )
        except (ValueError, RuntimeError) as error:
            raise Damaged(
                f"{uri} is not a model that LiteRT opens: {first_line(error)}", stage=Stage.PCA
            ) from error
        shape = tuple(int(n) for n in image["shape"])
        if (image["dtype"], len(shape), shape[:1], shape[3:]) != (np.uint8, 4, (1,), (3,)):
            raise Damaged(
                f"{uri} takes {image['dtype'].__name__} {shape}, expected uint8 (1, size, size, 3)",
                stage=Stage.PCA,
            )
        self.size = shape[1]
        """Pixels, square, that the image must have."""
        self._input, self._output = image["index"], embedding["index"]

    def embed(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The embedding, float32 (k,), of an image (size, size, 3) as ``images.decode_rgb`` gives it."""
        self._interpreter.set_tensor(self._input, rgb[None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)[0]


def open_embedder(pca_storage: Storage, marker: PcaMarker) -> Embedder:
    """Open the ``embed.tflite`` of a finished PCA.

    Raises JobError when the PCA has none, Damaged when it is not the one that the marker names.
    """
    uri = pca_storage.uri_of(EMBEDDER)
    if marker.embedder_digest is None:
        raise JobError(f"{pca_storage.uri} has no {EMBEDDER}: run the PCA step again, with --model")
    model = pca_storage.get(EMBEDDER).to_pybytes()
    digest = hashlib.sha256(model).hexdigest()
    if digest != marker.embedder_digest:
        raise Damaged(
            f"{uri} has SHA-256 {digest}, the marker says {marker.embedder_digest}; run the PCA step again",
            stage=Stage.PCA,
        )
    return Embedder(model, uri)


def fuse(model: bytes, spec: BackboneSpec, pca: PcaModel) -> bytes:
    """Add the preprocessing before a backbone and the PCA after it; return the LiteRT file.

    ``model`` has one input (1, size, size, 3) and one output (1, width), both float32; its inner
    precision may be any. The result has a fixed batch of one, the tensors "image" and "embedding",
    and one signature with these names.

    The mean is subtracted before the components are applied, as PcaModel.transform does. If it were
    folded into the bias of the last layer, an embedding would be the difference of two large float32
    sums where the mean is large against the spread: off by 2.6e-4 of the largest embedding at 1,700
    spreads and by 2.4e-3 at 17,000, against 1e-6 at both this way. The bias holds what the mean loses
    by rounding to float32.

    Raises JobError when the file is not such a model, or has another size or width than ``spec``
    and ``pca``.
    """
    parsed = _parse(model)
    graph = _Graph(parsed)
    image, features = _ends(graph.subgraph, spec, pca)
    _fix_batch(graph.subgraph)

    backbone, graph.subgraph.operators = graph.subgraph.operators, []
    new_input = graph.tensor(INPUT, (1, spec.input_size, spec.input_size, 3), schema.TensorType.UINT8)
    _preprocess(graph, new_input, image, spec.preprocessing)
    graph.subgraph.operators.extend(backbone)

    components = pca.components.astype(np.float32)
    mean = pca.mean.astype(np.float32)
    bias = -(pca.components @ (pca.mean - mean)).astype(np.float32)
    centred = graph.apply("SUB", "centred features", [features, graph.constant("PCA mean", mean[None])])
    new_output = graph.tensor(OUTPUT, (1, len(components)))
    weights = [graph.constant("PCA components", components), graph.constant("PCA bias", bias)]
    graph.operate("FULLY_CONNECTED", [centred, *weights], new_output, schema.FullyConnectedOptionsT())

    graph.subgraph.inputs, graph.subgraph.outputs = [new_input], [new_output]
    signature = schema.SignatureDefT(
        [schema.TensorMapT(INPUT, new_input)], [schema.TensorMapT(OUTPUT, new_output)], SIGNATURE, 0
    )
    parsed.signatureDefs = [signature]
    parsed.description = f"{spec.backbone} and PCA: uint8 RGB image to embedding"
    return _pack(parsed, len(model) + components.nbytes)


def _parse(model: bytes) -> Any:
    if model[4:8] != _IDENTIFIER:
        raise JobError("the backbone is not a LiteRT file")
    try:
        parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    except (struct.error, IndexError, ValueError, TypeError) as error:
        raise JobError(f"the backbone's LiteRT file is damaged: {first_line(error)}") from error
    if not parsed.subgraphs:
        raise JobError("the backbone's LiteRT file is damaged: it has no graph")
    return parsed


def _ends(subgraph: Any, spec: BackboneSpec, pca: PcaModel) -> tuple[int, int]:
    """Input and output tensor of the backbone. Raises JobError when their shapes do not fit spec and PCA."""
    for name, tensors in (("inputs", subgraph.inputs), ("outputs", subgraph.outputs)):
        count = 0 if tensors is None else len(tensors)
        if count != 1:
            raise JobError(f"the backbone has {count} {name}, expected one")
    if pca.components.shape[1] != spec.width or pca.mean.shape != (spec.width,):
        raise JobError(f"the PCA is of {pca.components.shape[1]} features, the backbone gives {spec.width}")
    ends = int(subgraph.inputs[0]), int(subgraph.outputs[0])
    shapes = (1, spec.input_size, spec.input_size, 3), (1, spec.width)
    for name, index, shape in zip(("takes", "gives"), ends, shapes, strict=True):
        tensor = subgraph.tensors[index]
        own_shape = tuple(int(n) for n in tensor.shape)
        if tensor.type != schema.TensorType.FLOAT32 or own_shape != shape:
            kind = "float32" if tensor.type == schema.TensorType.FLOAT32 else "another type"
            raise JobError(f"the backbone {name} {kind} {own_shape}, expected float32 {shape}")
    return ends


def _fix_batch(subgraph: Any) -> None:
    """Remove the signatures of -1, by which the batch of one could be changed."""
    for tensor in subgraph.tensors:
        tensor.shapeSignature = None


def _preprocess(graph: _Graph, image: int, backbone_input: int, mode: str) -> None:
    """``images.Preprocessor`` as operators, with the same float32 operations on each pixel."""
    shape = graph.subgraph.tensors[backbone_input].shape
    if mode == "tf":
        wide = graph.apply("CAST", "wide", [image], shape)
        scaled = graph.apply(
            "DIV", "scaled", [wide, graph.constant("half range", np.array([127.5], np.float32))]
        )
        graph.operate("SUB", [scaled, graph.constant("one", np.array([1.0], np.float32))], backbone_input)
    elif mode == "caffe":
        bgr = graph.tensor("bgr", shape, schema.TensorType.UINT8)
        order = graph.constant("channels", np.array([2, 1, 0], np.int32), schema.TensorType.INT32)
        graph.operate("GATHER", [image, order], bgr, schema.GatherOptionsT(axis=3))
        wide = graph.apply("CAST", "wide", [bgr], shape)
        graph.operate("SUB", [wide, graph.constant("mean", np.array(CAFFE_MEAN, np.float32))], backbone_input)
    else:
        raise JobError(f"unknown preprocessing {mode!r}; expected 'tf' or 'caffe'")


class _Graph:
    """The main subgraph of a parsed model; adds tensors and operators to it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.subgraph = model.subgraphs[0]

    def tensor(self, name: str, shape: Any, kind: int = schema.TensorType.FLOAT32, buffer: int = 0) -> int:
        """Add a tensor and return its index; buffer 0, the empty one, is that of computed values."""
        tensor = schema.TensorT(shape=np.array(shape, np.int32), type=kind, buffer=buffer, name=name)
        tensor.hasRank = True
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def constant(self, name: str, values: npt.NDArray[Any], kind: int = schema.TensorType.FLOAT32) -> int:
        data = np.frombuffer(
            np.ascontiguousarray(values).tobytes(), np.uint8
        )  # little-endian, as all nodes are
        self._model.buffers.append(schema.BufferT(data))
        return self.tensor(name, values.shape, kind, len(self._model.buffers) - 1)

    def apply(self, operator: str, name: str, inputs: list[int], shape: Any = None) -> int:
        """Add an operator with a float32 output of its own, of the first input's shape by default."""
        shape = self.subgraph.tensors[inputs[0]].shape if shape is None else shape
        output = self.tensor(name, shape)
        self.operate(operator, inputs, output)
        return output

    def operate(self, operator: str, inputs: list[int], output: int, options: Any = None) -> None:
        """Add an operator, of version 1, that writes into ``output``."""
        added = schema.OperatorT(
            self._code(operator), np.array(inputs, np.int32), np.array([output], np.int32)
        )
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            added.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            added.builtinOptions = options
        self.subgraph.operators.append(added)

    def _code(self, operator: str) -> int:
        wanted = getattr(schema.BuiltinOperator, operator)
        codes = self._model.operatorCodes
        for index, code in enumerate(codes):
            if (code.builtinCode, code.version) == (wanted, 1):
                return index
        # Old readers only know the deprecated field; all codes used here fit into it.
        codes.append(schema.OperatorCodeT(deprecatedBuiltinCode=wanted, builtinCode=wanted))
        return len(codes) - 1


class _AlignedBuffer(schema.BufferT):
    """A buffer whose data are aligned as the schema demands; kernels may read them with wide loads."""

    def Pack(self, builder: Any) -> Any:
        data = self.data.tobytes()
        builder.StartVector(1, len(data), _ALIGNMENT)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def _pack(model: Any, size: int) -> bytes:
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.__class__ = _AlignedBuffer
    builder = flatbuffers.Builder(size + 1024 * 1024)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())
