"""A small TensorFlow Lite graph as a differentiable torch module.

Covers the operators of MediaPipe's face networks. Tensors keep the file's order, channels last; its 16-bit weights
become float32 at load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnnlib.errors import UserError

_SAME, _RELU, _RELU6 = 0, 1, 3  # of the format's Padding and ActivationFunctionType
_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32}  # of its TensorType


class _Node(NamedTuple):
    operator: str
    inputs: list[int]
    output: int
    options: Any


def _activated(x: Tensor, options: Any) -> Tensor:
    kind = getattr(options, "fusedActivationFunction", 0)
    if kind == _RELU:
        return functional.relu(x)
    return functional.relu6(x) if kind == _RELU6 else x


def _pad_same(x: Tensor, kernel: tuple[int, int], options: Any) -> Tensor:
    """Zeros around NCHW so that the output has ceil(size / stride) cells; the odd one lies at the end."""
    if options.padding != _SAME:
        return x
    pads: list[int] = []
    for size, k, stride in zip(
        x.shape[-2:], kernel, (options.strideH, options.strideW), strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + k - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return functional.pad(x, pads) if any(pads) else x


def _conv(x: list[Tensor], o: Any) -> Tensor:
    weight = x[1].permute(0, 3, 1, 2)  # [out, h, w, in]
    data = _pad_same(x[0].permute(0, 3, 1, 2), (weight.shape[2], weight.shape[3]), o)
    stride, dilation = (o.strideH, o.strideW), (o.dilationHFactor, o.dilationWFactor)
    out = functional.conv2d(data, weight, x[2], stride, 0, dilation)
    return _activated(out.permute(0, 2, 3, 1), o)


def _depthwise(x: list[Tensor], o: Any) -> Tensor:
    weight = x[1].permute(3, 0, 1, 2)  # [1, h, w, out]
    data = _pad_same(x[0].permute(0, 3, 1, 2), (weight.shape[2], weight.shape[3]), o)
    stride, dilation = (o.strideH, o.strideW), (o.dilationHFactor, o.dilationWFactor)
    out = functional.conv2d(data, weight, x[2], stride, 0, dilation, groups=data.shape[1])
    return _activated(out.permute(0, 2, 3, 1), o)


def _max_pool(x: list[Tensor], o: Any) -> Tensor:
    kernel = (o.filterHeight, o.filterWidth)
    data = x[0].permute(0, 3, 1, 2)
    if o.padding == _SAME and any(n % s for n, s in zip(data.shape[-2:], kernel, strict=True)):
        raise UserError("the TensorFlow Lite file has uneven pooling, which is not covered")
    out = functional.max_pool2d(data, kernel, (o.strideH, o.strideW))
    return out.permute(0, 2, 3, 1)


def _pad(x: list[Tensor], o: Any) -> Tensor:
    return functional.pad(x[0], [n for pair in reversed(x[1].tolist()) for n in pair])


def _prelu(x: list[Tensor], o: Any) -> Tensor:
    return functional.prelu(x[0].permute(0, 3, 1, 2), x[1].flatten()).permute(0, 2, 3, 1)


def _strided_slice(x: list[Tensor], o: Any) -> Tensor:
    begin, end, stride = (v.tolist() for v in x[1:4])
    index: list[slice | int] = []
    for i in range(len(begin)):
        if o.shrinkAxisMask >> i & 1:
            index.append(begin[i])
        else:
            low = None if o.beginMask >> i & 1 else begin[i]
            high = None if o.endMask >> i & 1 else end[i]
            index.append(slice(low, high, stride[i]))
    return x[0][tuple(index)]


def _axes(x: list[Tensor]) -> list[int]:
    return [int(v) for v in x[1].flatten().tolist()]


_OPERATORS: dict[str, Callable[[list[Tensor], Any], Tensor]] = {
    "ADD": lambda x, o: _activated(x[0] + x[1], o),
    "CONCATENATION": lambda x, o: torch.cat(x, dim=o.axis),
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": lambda x, o: x[0].float(),
    "DIV": lambda x, o: _activated(x[0] / x[1], o),
    "LOGISTIC": lambda x, o: torch.sigmoid(x[0]),
    "MAX_POOL_2D": _max_pool,
    "MEAN": lambda x, o: x[0].mean(dim=_axes(x), keepdim=o.keepDims),
    "MUL": lambda x, o: _activated(x[0] * x[1], o),
    "NEG": lambda x, o: -x[0],
    "PAD": _pad,
    "PRELU": _prelu,
    "RESHAPE": lambda x, o: x[0].reshape(x[1].tolist()),
    "RSQRT": lambda x, o: torch.rsqrt(x[0]),
    "SQRT": lambda x, o: torch.sqrt(x[0]),
    "SQUARED_DIFFERENCE": lambda x, o: (x[0] - x[1]).square(),
    "STRIDED_SLICE": _strided_slice,
    "SUB": lambda x, o: _activated(x[0] - x[1], o),
    "SUM": lambda x, o: x[0].sum(dim=_axes(x), keepdim=o.keepDims),
    "TRANSPOSE": lambda x, o: x[0].permute(x[1].tolist()),
}


class TfliteModule(nn.Module):
    """A graph with one input, frozen. `forward(x)` gives the wanted outputs as the file does.

    Shapes are those of the file, a batch of one; convolutional graphs take any batch.

    Raises:
        UserError: the bytes are no TensorFlow Lite file, or have an operator that is not covered.
    """

    def __init__(
        self,
        content: bytes,
        name: str,  # for messages
        outputs: tuple[int, ...] = (0,),  # which of its outputs
    ) -> None:
        super().__init__()
        try:
            constants = self._read(content, name, outputs)
        except UserError:
            raise
        except (
            Exception
        ) as error:  # flatbuffers and numpy on damaged bytes raise whatever they like
            raise UserError(
                f"{name} is not a readable TensorFlow Lite file; take another copy"
            ) from error
        if any(v.is_floating_point() and not v.isfinite().all() for v in constants.values()):
            raise UserError(f"{name} holds NaN or infinity; take another copy")
        for key, value in constants.items():
            # whole numbers are axes and shapes: they stay on the CPU, where they are read
            if value.is_floating_point():
                self.register_buffer(f"constant{key}", value)
        self._whole = {k: v for k, v in constants.items() if not v.is_floating_point()}
        self._float = {k for k, v in constants.items() if v.is_floating_point()}
        self._last_use = {n: i for i, node in enumerate(self._nodes) for n in node.inputs}
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TfliteModule:
        return super().train(False)  # frozen: has no training mode

    def _read(self, content: bytes, name: str, outputs: tuple[int, ...]) -> dict[int, Tensor]:
        """Fill `_nodes`, `_input` and `_outputs` with what those outputs need; returns their constants."""
        from ai_edge_litert import schema_py_generated as schema  # here: slow to import

        names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graph = model.subgraphs[0]
        constants: dict[int, Tensor] = {}
        for i, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is not None and tensor.type in _DTYPES:
                array = np.frombuffer(bytes(data), _DTYPES[tensor.type])
                shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
                constants[i] = torch.from_numpy(array.reshape(shape).copy())
        nodes: list[_Node] = []
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if kind not in _OPERATORS:
                raise UserError(f"{name} uses the operator {kind}, which is not covered")
            inputs = [int(i) for i in operator.inputs]
            node = _Node(kind, inputs, int(operator.outputs[0]), operator.builtinOptions)
            if all(i in constants for i in inputs):
                constants[node.output] = _OPERATORS[kind](
                    [constants[i] for i in inputs], node.options
                )
            else:
                nodes.append(node)
        self._input, self._outputs = int(graph.inputs[0]), [int(graph.outputs[i]) for i in outputs]
        needed, kept = set(self._outputs), []
        for node in reversed(nodes):
            if node.output in needed:
                needed.update(node.inputs)
                kept.append(node)
        self._nodes = kept[::-1]
        return {i: value for i, value in constants.items() if i in needed}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values: dict[int, Tensor] = {self._input: x}
        for i, node in enumerate(self._nodes):
            inputs = [self._value(n, values) for n in node.inputs]
            values[node.output] = _OPERATORS[node.operator](inputs, node.options)
            for n in node.inputs:  # free what nobody reads any more
                if self._last_use[n] == i and n not in self._outputs:
                    values.pop(n, None)
        return tuple(values[n] for n in self._outputs)

    def _value(self, n: int, values: dict[int, Tensor]) -> Tensor:
        if n in values:
            return values[n]
        return self.get_buffer(f"constant{n}") if n in self._float else self._whole[n]
