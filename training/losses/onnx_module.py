"""A small ONNX graph as a differentiable torch module.

Covers the operators of plain convolutional networks for recognition. What depends on constants only (among it the
DequantizeLinear nodes of quantised weights) is computed once at load; the rest runs in torch, so gradients reach the
input.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnnlib.errors import UserError
from dnnlib.reading.files import check_file
from dnnlib.reading.tensors import check_finite_tensors

Attributes = dict[str, Any]
Values = list[Tensor | None]
Node = tuple[str, list[str], str, Attributes]  # operator, inputs, output, attributes


def _conv(x: Values, a: Attributes) -> Tensor:
    data, weight, bias = x[0], x[1], x[2] if len(x) > 2 else None
    assert data is not None and weight is not None
    rank = weight.ndim - 2
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or rank != 2:
        raise UserError(
            "the ONNX file has a convolution that is not 2D or is padded automatically; export it plainly"
        )
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        data, (top, left) = functional.pad(data, (left, right, top, bottom)), (0, 0)
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    return functional.conv2d(data, weight, bias, strides, (top, left), dilations, a.get("group", 1))


def _batch_norm(x: Values, a: Attributes) -> Tensor:
    data, scale, shift, mean, variance = (v for v in x[:5])
    assert data is not None
    return functional.batch_norm(
        data, mean, variance, scale, shift, False, 0.0, a.get("epsilon", 1e-5)
    )


def _prelu(x: Values, a: Attributes) -> Tensor:
    data, slope = x
    assert data is not None and slope is not None
    if data.ndim > 1 and slope.numel() in (1, data.shape[1]) and slope.shape[1:].numel() <= 1:
        return functional.prelu(data, slope.flatten())  # one slope a channel
    return torch.where(data >= 0, data, data * slope)


def _gemm(x: Values, a: Attributes) -> Tensor:
    left, right, bias = x[0], x[1], x[2] if len(x) > 2 else None
    assert left is not None and right is not None
    left = left.T if a.get("transA", 0) else left
    right = right.T if a.get("transB", 0) else right
    product = a.get("alpha", 1.0) * (left @ right)
    return product if bias is None else product + a.get("beta", 1.0) * bias


def _reshape(x: Values, a: Attributes) -> Tensor:
    data, shape = x
    assert data is not None and shape is not None
    sizes = [data.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())]
    return data.reshape(sizes)


def _flatten(x: Values, a: Attributes) -> Tensor:
    assert x[0] is not None
    axis = a.get("axis", 1)
    return x[0].flatten(axis) if axis == 1 else x[0].reshape(int(np.prod(x[0].shape[:axis])), -1)


def _dequantize(x: Values, a: Attributes) -> Tensor:
    """(value - zero_point) * scale; scales may be one, one per index of an axis, or one per block along it."""
    value, scale = x[0], x[1]
    zero = x[2] if len(x) > 2 else None
    assert value is not None and scale is not None
    axis, block = a.get("axis", 1), a.get("block_size", 0)

    def spread(t: Tensor) -> Tensor:
        if block:
            return t.repeat_interleave(block, dim=axis).narrow(axis, 0, value.shape[axis])
        if t.numel() > 1:
            return t.reshape([-1 if i == axis % value.ndim else 1 for i in range(value.ndim)])
        return t.reshape(())

    centred = value.float() if zero is None else value.float() - spread(zero.float())
    return centred * spread(scale.float())


def _pooled(function: Callable[..., Tensor]) -> Callable[[Values, Attributes], Tensor]:
    def run(x: Values, a: Attributes) -> Tensor:
        pads = a.get("pads", [0, 0, 0, 0])
        if pads[:2] != pads[2:] or a.get("ceil_mode", 0):
            raise UserError("the ONNX file has uneven pooling; export it plainly")
        return function(x[0], a["kernel_shape"], a.get("strides", [1, 1]), pads[:2])

    return run


_OPERATORS: dict[str, Callable[[Values, Attributes], Any]] = {
    "Add": lambda x, a: x[0] + x[1],  # type: ignore[operator]
    "Sub": lambda x, a: x[0] - x[1],  # type: ignore[operator]
    "Mul": lambda x, a: x[0] * x[1],  # type: ignore[operator]
    "Div": lambda x, a: x[0] / x[1],  # type: ignore[operator, arg-type]
    "AveragePool": _pooled(functional.avg_pool2d),
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Dropout": lambda x, a: x[0],  # inference
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, a: x[0].mean(dim=(2, 3), keepdim=True),  # type: ignore[union-attr]
    "Identity": lambda x, a: x[0],
    "MaxPool": _pooled(functional.max_pool2d),
    "PRelu": _prelu,
    "Relu": lambda x, a: functional.relu(x[0]),  # type: ignore[arg-type]
    "Reshape": _reshape,
    "Sigmoid": lambda x, a: torch.sigmoid(x[0]),  # type: ignore[arg-type]
    "Transpose": lambda x, a: x[0].permute(a["perm"]),  # type: ignore[union-attr]
}


def _fold_batch_norms(
    nodes: list[Node], constants: dict[str, Tensor], outputs: list[str]
) -> list[Node]:
    """The nodes without the batch norms that follow a convolution alone: their scale and shift become its own.

    outputs: names that the graph gives away. The new weights are added to `constants`.
    """
    makers = {node[2]: node for node in nodes}
    readers = Counter([*outputs, *(name for _, names, _, _ in nodes for name in names)])
    kept, folded = [], set()
    for node in nodes:
        operator, names, output, attributes = node
        maker = makers.get(names[0]) if operator == "BatchNormalization" else None
        if (
            maker is None
            or maker[0] != "Conv"
            or readers[names[0]] != 1
            or any(n not in constants for n in (*maker[1][1:], *names[1:]))
        ):
            kept.append(node)
            continue
        scale, shift, mean, variance = (constants[n].double() for n in names[1:5])
        factor = scale / (variance + attributes.get("epsilon", 1e-5)).sqrt()
        weight = constants[maker[1][1]]
        bias = constants[maker[1][2]].double() if len(maker[1]) > 2 else torch.zeros_like(mean)
        fresh = [f"{output}.weight", f"{output}.bias"]
        spread = factor.view(-1, *[1] * (weight.ndim - 1))
        constants[fresh[0]] = (weight.double() * spread).to(weight.dtype)
        constants[fresh[1]] = ((bias - mean) * factor + shift).to(weight.dtype)
        kept.append(("Conv", [maker[1][0], *fresh], output, maker[3]))
        folded.add(maker[2])
    return [node for node in kept if node[2] not in folded]


class OnnxModule(nn.Module):
    """A graph with one input and one output, frozen. `forward(x)` gives what the ONNX file gives.

    Raises:
        UserError: the file is not ONNX, or has an operator that is not covered.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        name = os.fspath(check_file(path, "give an ONNX file"))
        try:
            free, given, constants = self._read(name)
        except UserError:
            raise
        except (
            Exception
        ) as error:  # protobuf, numpy, and operators on what a damaged graph gives them
            raise UserError(f"{name} is not a readable ONNX file; take another copy") from error
        if len(free) != 1 or len(given) != 1:
            raise UserError(
                f"{name} must have one input and one output, not {len(free)} and {len(given)}"
            )
        self._input, self._output = free[0], given[0]
        used = {n for _, names, _, _ in self._nodes for n in names}
        self._buffer_of: dict[str, str] = {}
        for i, key in enumerate(sorted(used & constants.keys())):
            self._buffer_of[key] = f"constant{i}"
            self.register_buffer(f"constant{i}", constants[key])
        self._last_use = {n: i for i, (_, names, _, _) in enumerate(self._nodes) for n in names}
        self.requires_grad_(False).eval()

    def _read(self, name: str) -> tuple[list[str], list[str], dict[str, Tensor]]:
        """Fill `_nodes`; returns names of inputs and outputs, and the constants. Raises whatever onnx raises."""
        import onnx  # here: only this class needs it, and it takes a while to import

        graph = onnx.load(name, load_external_data=False).graph  # no other file that it names
        constants = {
            t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy())
            for t in graph.initializer
        }
        check_finite_tensors(constants, name)
        self._nodes: list[Node] = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                constants[node.output[0]] = torch.from_numpy(
                    onnx.numpy_helper.to_array(attributes["value"]).copy()
                )
            elif node.op_type not in _OPERATORS:
                raise UserError(
                    f"{name} uses the ONNX operator {node.op_type}, which is not covered; export it plainly"
                )
            elif all(n in constants or n == "" for n in node.input):
                inputs = [constants.get(n) for n in node.input]
                constants[node.output[0]] = _OPERATORS[node.op_type](inputs, attributes)
            else:
                self._nodes.append((node.op_type, list(node.input), node.output[0], attributes))
        outputs = [o.name for o in graph.output]
        self._nodes = _fold_batch_norms(self._nodes, constants, outputs)
        used = {n for _, names, _, _ in self._nodes for n in names}
        # Quantised files still list the weights that they replaced among their inputs; nobody reads those.
        free = [i.name for i in graph.input if i.name in used and i.name not in constants]
        return free, outputs, constants

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {self._input: x}
        for i, (operator, names, output, attributes) in enumerate(self._nodes):
            inputs = [self._value(name, values) for name in names]
            values[output] = _OPERATORS[operator](inputs, attributes)
            for name in names:  # free what nobody reads any more
                if self._last_use[name] == i and name != self._output:
                    values.pop(name, None)
        return cast(Tensor, values[self._output])

    def _value(self, name: str, values: dict[str, Tensor | None]) -> Tensor | None:
        if name in values:
            return values[name]
        return self.get_buffer(self._buffer_of[name]) if name in self._buffer_of else None
