#!/usr/bin/env python3
"""Cases for every ONNX operator that Graft might serve, at every opset from 9 to 21, and a table of what comes of them.

    operators.py cases DIR                                      write the cases
    operators.py table DIR --graft GRAFT --out operators.md     run Graft on them
    operators.py small DIR OUT.zip                              pick few of them, for tests that have no Python

`operators.sh` does all of it. A case is a network with one input, whose first dimension is the batch, with one input tensor and
the output that is right for it. Nobody of this project wrote down what is right: it is
- "onnx node test": what the ONNX standard's own test of the operator expects, in the newest version of the operator that opset 21
  has, and in older versions where the test fits them too;
- "onnxruntime": what ONNX Runtime's CPU provider computes for the networks of WRITTEN below, in every version of the operator.
Either way a case is kept only if ONNX's checker accepts it and ONNX Runtime, with and without its optimizations, agrees.

`case.json` says more: `since` and `until` are the opsets that share the operator's definition; `rows` tells whether every row of
the output belongs to one row of the input. Where it doesn't, the network mixes requests, and a server that batches must refuse it.
"""
import argparse
import collections
import concurrent.futures
import copy
import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OLDEST, NEWEST = 9, 21
STANDARD, RUNTIME = "onnx node test", "onnxruntime"
F16, F32, I8, U8, I32, I64 = np.float16, np.float32, np.int8, np.uint8, np.int32, np.int64
# What an input or an output may hold; constants may hold anything.
SERVED = {"float32", "float16", "int32", "int64", "int8", "uint8", "bool"}
INF, NAN = float("inf"), float("nan")
X = "x"  # the network's input, among a node's inputs


# ---------------------------------------------------------------- networks

class Net:
    """A network to be written: one node, or several in `nodes` as (operator, inputs, outputs, attributes)."""
    def __init__(self, tag, x, args=(X,), nodes=None, through=None, outputs=1, out=0, **attributes):
        self.tag, self.x, self.consts = tag, np.asarray(x), {}
        self.nodes = nodes
        if nodes is None:
            names = ["y" if i == out else f"y{i}" for i in range(outputs)]
            self.nodes = [(None, list(args), names, attributes)]
        if through is not None:  # float in, the operator on another type, float out
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(through))
            op, inputs, names, attributes = self.nodes[0]
            inputs = ["cast" if isinstance(i, str) and i == X else i for i in inputs]
            self.nodes = [("Cast", [X], ["cast"], {"to": kind}), (op, inputs, ["raw"], attributes),
                          ("Cast", ["raw"], ["y"], {"to": TensorProto.FLOAT})]
            self.x = self.x.astype(F32)

    def graph(self, operator):
        """Nodes and initializers; arrays among the inputs become initializers."""
        nodes, consts = [], []
        for op, inputs, outputs, attributes in self.nodes:
            names = []
            for value in inputs:
                if value is None or isinstance(value, str):
                    names.append(value or "")
                else:
                    names.append(f"c{len(consts)}")
                    consts.append(numpy_helper.from_array(np.asarray(value, order="C"), names[-1]))
            op = op or operator
            nodes.append(helper.make_node(op, names, outputs, name=f"{op}_{len(nodes)}", **attributes))
        return nodes, consts


def dims(kind, shape):
    """A value's type with a shape of numbers, names and None."""
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(kind), shape)


def model_of(nodes, consts, x_name, y_name, x, y_kind, y_shape, opset):
    graph = helper.make_graph(
        nodes, "case",
        [helper.make_value_info(x_name, dims(x.dtype, ["N", *x.shape[1:]]))],
        [helper.make_value_info(y_name, dims(y_kind, y_shape))],
        initializer=consts)
    imports = [helper.make_opsetid("", opset)]
    ir = min(10, max(4, helper.find_min_ir_version_for(imports)))
    return helper.make_model(graph, producer_name="operators.py", opset_imports=imports, ir_version=ir)


# ---------------------------------------------------------------- versions of operators

# What exporters still wrote; ONNX's checker accepts no deprecated operator, so it isn't asked.
MET_THOUGH_DEPRECATED = {"GroupNormalization"}


def schema(operator, opset):
    try:
        found = onnx.defs.get_schema(operator, opset)
    except Exception:
        return None
    return None if found.deprecated and operator not in MET_THOUGH_DEPRECATED else found


def versions(operator):
    """The operator's definitions from OLDEST to NEWEST: {since: (first opset, last opset)}."""
    found = {}
    for opset in range(OLDEST, NEWEST + 1):
        definition = schema(operator, opset)
        if definition:
            first, _ = found.get(definition.since_version, (opset, opset))
            found[definition.since_version] = (first, opset)
    return found


# ---------------------------------------------------------------- networks written by hand

WRITTEN = {}  # operator -> function of (operator, opset, Draw), which yields networks


def writes(*operators):
    def register(function):
        for operator in operators:
            WRITTEN[operator] = function
        return function
    return register


class Draw:
    """Numbers from a seed: the same for the same operator."""
    def __init__(self, operator):
        self.generator = np.random.default_rng(zlib.crc32(operator.encode()))

    def f(self, *shape, low=-2.0, high=2.0, kind=F32):
        return self.generator.uniform(low, high, shape).astype(kind)

    def i(self, *shape, low=-9, high=10, kind=I64):
        return self.generator.integers(low, high, shape).astype(kind)


def ints(*values):
    return np.array(values, I64)


def f32(*values):
    return np.array(values, F32)


SPECIAL = f32([[NAN, INF, -INF, 0.0], [-0.0, 1.0, -1.0, 0.5]], [[60.0, -60.0, 1e-6, -1e-6], [2.5, -2.5, 3.5, -0.5]])
# Where an operator is defined; from -2 to 2 where it isn't listed.
DOMAIN = {"Log": (0.1, 5), "Sqrt": (0, 5), "Reciprocal": (0.3, 3), "Asin": (-0.95, 0.95), "Acos": (-0.95, 0.95),
          "Atanh": (-0.9, 0.9), "Acosh": (1.1, 4), "Tan": (-1.2, 1.2), "Softplus": (-9, 9), "Sigmoid": (-9, 9),
          "HardSigmoid": (-5, 5), "HardSwish": (-5, 5), "Mish": (-6, 6), "Gelu": (-4, 4), "Erf": (-3, 3)}
UNARY = """Abs Neg Sign Floor Ceil Round Exp Log Sqrt Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh
Erf Sigmoid Softplus Softsign Relu Elu Selu Celu LeakyRelu ThresholdedRelu HardSigmoid HardSwish Mish Gelu Identity IsNaN IsInf
Shrink""".split()
ATTRIBUTES = {"Elu": {"alpha": 0.5}, "Selu": {"alpha": 1.5, "gamma": 0.9}, "Celu": {"alpha": 2.0}, "LeakyRelu": {"alpha": 0.2},
              "ThresholdedRelu": {"alpha": 0.7}, "HardSigmoid": {"alpha": 0.25, "beta": 0.4}, "Gelu": {"approximate": "tanh"},
              "IsInf": {"detect_negative": 0}, "Shrink": {"bias": 0.3, "lambd": 0.6}}


@writes(*UNARY)
def unary(op, v, d):
    low, high = DOMAIN.get(op, (-2, 2))
    yield Net("f32", d.f(2, 3, 4, low=low, high=high))
    yield Net("rank1", d.f(3, low=low, high=high))
    yield Net("f16", d.f(2, 3, low=low, high=high, kind=F16))
    yield Net("special", SPECIAL)
    if op in ATTRIBUTES:
        yield Net("attributes", SPECIAL if op == "IsInf" else d.f(2, 5, low=low, high=high), **ATTRIBUTES[op])
    if op in ("Abs", "Neg", "Sign", "Relu", "Identity"):
        for kind in (I32, I64, I8):
            yield Net(np.dtype(kind).name, d.i(2, 5, low=-99, high=99, kind=kind))
        yield Net("int64_large", ints([5_000_000_001, -7], [-(2**40) - 3, 0]))
        yield Net("through_int64", d.i(2, 5), through=I64)
    if op == "Identity":
        yield Net("bool", np.array([[True, False], [False, True]]))
        yield Net("uint8", d.i(2, 5, low=0, high=256, kind=U8))
    if op == "Round":
        yield Net("halves", f32([0.5, 1.5, 2.5, -0.5], [-1.5, -2.5, 0.49999997, 2.4]))


@writes("Add", "Sub", "Mul", "Div", "Pow")
def arithmetic(op, v, d):
    x = d.f(2, 3, 4, low=0.2) if op == "Pow" else d.f(2, 3, 4)
    for tag, other in (("scalar", np.array(1.5, F32)), ("row", d.f(4, low=0.5)), ("column", d.f(3, 1, low=0.5)),
                       ("same_rank", d.f(1, 3, 4, low=0.5)), ("one", f32(0.75))):
        yield Net(tag, x, [X, other])
    yield Net("constant_first", x, [d.f(3, 4, low=0.5), X])
    yield Net("itself", abs(x) + F32(0.5), [X, X])
    yield Net("f16", abs(d.f(2, 3, kind=F16)) + F16(0.5), [X, np.array([0.5, 1.5, 2], F16)])
    yield Net("special", SPECIAL, [X, f32(2.0)])
    if op == "Div":
        yield Net("by_zero", f32([1, -1], [0, 2]), [X, f32(0, -0.0)])
    if op == "Pow":
        yield Net("negative_base", f32([-2, -0.5], [0, 3]), [X, f32(3, 2)])
        yield Net("zero_exponent", f32([-2, 0], [0, 3]), [X, f32(0, 0)])
        yield Net("int_exponent", d.f(2, 3), [X, ints(2, 3, 0)])
        yield Net("int_base", d.i(2, 3, low=0, kind=I32), [X, f32(2, 1, 3)])
    powers = {"Pow": [2, 3, 1]}
    for kind in (I32, I64, I8, U8):
        name, low = np.dtype(kind).name, 0 if kind == U8 else -9
        other = np.array(powers.get(op, [2, 3, 4]), kind)
        yield Net(name, d.i(2, 2, 3, low=5 if op == "Sub" and kind == U8 else low, high=12, kind=kind), [X, other])
        if kind in (I32, I64):
            yield Net(name + "_negative", d.i(2, 3, low=-9, high=0, kind=kind), [X, other])
            yield Net("through_" + name, d.i(2, 3, low=-9, high=9), [X, other], through=kind)
    if op == "Div":
        yield Net("int_truncates", ints([-7, 7, -7], [7, -1, 1]), [X, ints(2, -2, -2)])
    large = {"Add": [3_000_000_000, -5_000_000_000], "Sub": [3_000_000_000, -5_000_000_000], "Mul": [3, 65_537],
             "Div": [3, -70_000], "Pow": [1, 2]}[op]
    base = ints([3_000_000_019, 7], [-3_000_000_019, 3_000_000_000])
    yield Net("int64_large", base // 10 if op in ("Pow", "Mul") else base, [X, np.array(large, I64)])


@writes("Mod")
def mod(op, v, d):
    yield Net("fmod_f32", d.f(2, 3, low=-9, high=9), [X, f32(2, -3, 2.5)], fmod=1)
    for kind in (I32, I64):
        x, other = np.array([[-7, 7, -7, 7], [5, -5, 8, 0]], kind), np.array([3, -3, -3, 3], kind)
        yield Net(f"{np.dtype(kind).name}_negative", x, [X, other])
        yield Net(f"{np.dtype(kind).name}_fmod", x, [X, other], fmod=1)
        yield Net(f"through_{np.dtype(kind).name}", x, [X, other], through=kind)
    yield Net("int64_large", ints([5_000_000_021, -5_000_000_021], [3, 2**40]), [X, ints(3_000_000_000, 1000)])


@writes("Min", "Max", "Sum", "Mean")
def variadic(op, v, d):
    yield Net("one_input", d.f(2, 3))
    yield Net("two", d.f(2, 3, 4), [X, d.f(3, 4)])
    yield Net("three", d.f(2, 3, 4), [X, d.f(4), d.f(3, 1)])
    yield Net("constant_first", d.f(2, 4), [np.array(0.25, F32), X])
    yield Net("special", SPECIAL, [X, f32(0.0)])
    yield Net("f16", d.f(2, 3, kind=F16), [X, np.array([0, 1, -1], F16)])
    if op in ("Min", "Max"):
        for kind in (I32, I64, I8, U8):
            yield Net(np.dtype(kind).name, d.i(2, 3, low=0, kind=kind), [X, np.array([2, 5, 7], kind)])
        yield Net("int64_large", ints([5_000_000_021, -5_000_000_021], [3, 2**40]), [X, ints(3_000_000_000, 1000)])
        yield Net("through_int64", d.i(2, 3), [X, ints(2, 0, -3)], through=I64)


@writes("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
def comparison(op, v, d):
    yield Net("f32", f32([1, 2, 3], [2, 2, -1]), [X, f32(2)])
    yield Net("constant_first", f32([1, 2, 3], [2, 2, -1]), [np.array(2, F32), X])
    yield Net("special", SPECIAL, [X, f32(NAN, INF, -INF, 0)])
    yield Net("f16", d.f(2, 3, kind=F16), [X, np.array([0, 1, -1], F16)])
    for kind in (I32, I64, I8, U8):
        yield Net(np.dtype(kind).name, np.array([[1, 2, 3], [2, 2, 0]], kind), [X, np.array([2, 2, 1], kind)])
    yield Net("int64_large", ints([2**40, 2**40 + 1], [2**33, 5]), [X, ints(2**40)])
    yield Net("through_int64", d.i(2, 3), [X, ints(2, 0, -3)], through=I64)
    if op == "Equal":
        yield Net("bool", np.array([[True, False], [False, True]]), [X, np.array([True, False])])


@writes("And", "Or", "Xor", "Not")
def logic(op, v, d):
    other = [] if op == "Not" else [np.array([True, False])]
    bits = np.array([[True, False], [False, True], [True, True]])
    yield Net("bool", bits, [X, *other])
    yield Net("through_bool", bits.astype(F32) * 3, [X, *other], through=np.bool_)
    yield Net("of_comparison", f32([1, -1], [-2, 2]), nodes=[
        ("Greater", [X, f32(0)], ["bits"], {}), (op, ["bits", *other], ["y"], {})])


@writes("Softmax", "LogSoftmax", "Hardmax")
def softmax(op, v, d):
    yield Net("default_axis", d.f(2, 3, 4))
    yield Net("default_axis_2d", d.f(2, 5))
    for axis in (1, 2, -1, 0) if v >= 11 else (1, 2, 0):
        yield Net(f"axis{axis}".replace("-", "_minus"), d.f(2, 3, 4), axis=axis)
    yield Net("4d_axis1", d.f(2, 3, 2, 2), axis=1)
    yield Net("4d_axis3", d.f(2, 3, 2, 2), axis=3)
    yield Net("large", d.f(2, 4, low=-900, high=900))
    yield Net("tie", f32([1, 3, 3], [2, 2, 2]), axis=1)
    yield Net("f16", d.f(2, 5, kind=F16), axis=1)
    if op != "Hardmax":
        yield Net("minus_inf", f32([0, -INF, 1], [-INF, -INF, 2]), axis=1)


PADDINGS = [(f"{mode.lower()}_s{s}_k{k}", {"auto_pad": mode, "strides": [s, s]}, k)
            for mode in ("SAME_UPPER", "SAME_LOWER", "VALID") for s in (1, 2) for k in (2, 3)]


@writes("Conv")
def conv(op, v, d):
    x = d.f(2, 3, 7, 6)
    yield Net("bare", x, [X, d.f(4, 3, 3, 3)])
    yield Net("bias", x, [X, d.f(4, 3, 3, 3), d.f(4)])
    for tag, attributes, k in PADDINGS:
        yield Net(tag, x, [X, d.f(2, 3, k, k)], **attributes)
    yield Net("same_upper_dilated", x, [X, d.f(2, 3, 3, 3)], auto_pad="SAME_UPPER", dilations=[2, 2])
    yield Net("notset_pads", x, [X, d.f(2, 3, 3, 3)], auto_pad="NOTSET", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    for tag, attributes in (("pads", {"pads": [1, 1, 1, 1]}), ("pads_uneven", {"pads": [0, 1, 2, 3]}),
                            ("strides", {"strides": [2, 2]}), ("strides_uneven", {"strides": [2, 1], "pads": [1, 0, 1, 0]}),
                            ("dilations", {"dilations": [2, 1]}), ("strides_only_pads", {"strides": [3, 3], "pads": [1, 2, 0, 1]})):
        yield Net(tag, x, [X, d.f(4, 3, 3, 3), d.f(4)], **attributes)
    yield Net("kernel_1x3", x, [X, d.f(4, 3, 1, 3)], pads=[0, 1, 0, 1])
    yield Net("pointwise", x, [X, d.f(4, 3, 1, 1)])
    yield Net("pointwise_strided", x, [X, d.f(4, 3, 1, 1)], strides=[2, 2])
    yield Net("groups", d.f(2, 6, 5, 5), [X, d.f(4, 3, 3, 3), d.f(4)], group=2)
    yield Net("depthwise", d.f(2, 4, 5, 5), [X, d.f(4, 1, 3, 3)], group=4, pads=[1, 1, 1, 1])
    yield Net("depthwise_multiplied", d.f(2, 3, 5, 5), [X, d.f(6, 1, 3, 3), d.f(6)], group=3, strides=[2, 2])
    yield Net("depthwise_dilated", d.f(2, 4, 7, 7), [X, d.f(4, 1, 3, 3)], group=4, dilations=[2, 2], auto_pad="SAME_UPPER")
    yield Net("1d", d.f(2, 3, 9), [X, d.f(4, 3, 3)])
    yield Net("1d_strided", d.f(2, 3, 9), [X, d.f(4, 3, 3), d.f(4)], strides=[2], dilations=[2], pads=[2, 1])
    yield Net("1d_same_lower", d.f(2, 4, 9), [X, d.f(4, 1, 4)], auto_pad="SAME_LOWER", group=4)
    yield Net("1d_causal", d.f(2, 3, 9), [X, d.f(4, 3, 3)], pads=[2, 0])
    yield Net("3d", d.f(2, 2, 4, 5, 4), [X, d.f(3, 2, 2, 3, 2)])
    yield Net("3d_pads", d.f(2, 2, 4, 5, 4), [X, d.f(3, 2, 3, 3, 3), d.f(3)], pads=[1] * 6, strides=[2, 1, 2])
    yield Net("f16", d.f(2, 3, 5, 5, kind=F16), [X, d.f(2, 3, 3, 3, kind=F16)], pads=[1, 1, 1, 1])
    yield Net("batch_of_three", d.f(3, 2, 5, 5), [X, d.f(2, 2, 3, 3)])


@writes("ConvTranspose")
def conv_transpose(op, v, d):
    x, w = d.f(2, 3, 4, 5), d.f(3, 2, 3, 3)
    yield Net("bare", x, [X, w])
    for tag, attributes in (("strides", {"strides": [2, 2]}), ("pads", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
                            ("pads_uneven", {"pads": [0, 1, 1, 0]}), ("dilations", {"dilations": [2, 2]}),
                            ("output_padding", {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]}),
                            ("output_shape", {"strides": [2, 2], "output_shape": [8, 10]}),
                            ("same_upper", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
                            ("same_lower", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
                            ("valid", {"auto_pad": "VALID", "strides": [2, 2]})):
        yield Net(tag, x, [X, w, d.f(2)], **attributes)
    yield Net("even_kernel", x, [X, d.f(3, 2, 4, 4)], strides=[2, 2], pads=[1, 1, 1, 1])
    yield Net("kernel_as_stride", x, [X, d.f(3, 2, 2, 2)], strides=[2, 2], kernel_shape=[2, 2])
    yield Net("groups", d.f(2, 4, 4, 4), [X, d.f(4, 2, 3, 3)], group=2, strides=[2, 2])
    yield Net("depthwise", d.f(2, 3, 4, 4), [X, d.f(3, 1, 3, 3)], group=3)
    yield Net("1d", d.f(2, 3, 5), [X, d.f(3, 2, 3)], strides=[2])
    yield Net("3d", d.f(2, 2, 3, 3, 3), [X, d.f(2, 2, 2, 2, 2)], strides=[2, 2, 2])


@writes("MaxPool", "AveragePool", "LpPool")
def pool(op, v, d):
    x = d.f(2, 3, 7, 6) - F32(2.5 if op == "MaxPool" else 0)
    ceil, dilated = {"MaxPool": (10, 10), "AveragePool": (10, 19), "LpPool": (18, 18)}[op]
    nets = [("kernel_only", [2, 2], {}), ("kernel3_only", [3, 3], {}), ("kernel_1x3", [1, 3], {}),
            ("strides", [3, 3], {"strides": [2, 2]}), ("strides_uneven", [2, 3], {"strides": [2, 1]}),
            ("pads", [3, 3], {"pads": [1, 1, 1, 1], "strides": [2, 2]}), ("pads_uneven", [3, 3], {"pads": [0, 1, 2, 1]}),
            ("kernel_as_stride", [2, 2], {"strides": [2, 2]})]
    nets += [(tag, [k, k], attributes) for tag, attributes, k in PADDINGS]
    if v >= ceil:
        nets += [("ceil", [3, 3], {"strides": [2, 2], "ceil_mode": 1}), ("ceil_k2", [2, 2], {"strides": [2, 2], "ceil_mode": 1}),
                 ("ceil_pads", [3, 3], {"strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
                 ("ceil_s3", [2, 2], {"strides": [3, 3], "ceil_mode": 1})]
    if v >= dilated:
        nets += [("dilations", [2, 2], {"dilations": [2, 2]}), ("dilations_pads", [3, 3], {"dilations": [2, 1], "pads": [2, 1, 2, 1]})]
    if op == "AveragePool":
        nets += [("include_pad", [3, 3], {"pads": [1, 1, 1, 1], "count_include_pad": 1}),
                 ("include_pad_uneven", [3, 3], {"pads": [0, 2, 1, 1], "strides": [2, 2], "count_include_pad": 1}),
                 ("include_pad_same", [3, 3], {"auto_pad": "SAME_UPPER", "count_include_pad": 1})]
        if v >= ceil:
            nets.append(("include_pad_ceil", [3, 3], {"pads": [1, 1, 1, 1], "strides": [2, 2], "count_include_pad": 1, "ceil_mode": 1}))
    if op == "LpPool":
        nets += [("p1", [2, 2], {"p": 1}), ("p3", [2, 2], {"p": 3, "strides": [2, 2]})]
    for tag, kernel, attributes in nets:
        yield Net(tag, x, kernel_shape=kernel, **attributes)
    yield Net("1d", d.f(2, 3, 9), kernel_shape=[3], strides=[2], pads=[1, 0])
    yield Net("1d_same_lower", d.f(2, 3, 9), kernel_shape=[4], auto_pad="SAME_LOWER", strides=[2])
    yield Net("3d", d.f(2, 2, 4, 5, 4), kernel_shape=[2, 2, 2])
    yield Net("3d_pads", d.f(2, 2, 4, 5, 4), kernel_shape=[3, 3, 3], pads=[1] * 6, strides=[2, 2, 1])
    yield Net("f16", d.f(2, 3, 5, 5, kind=F16), kernel_shape=[2, 2], strides=[2, 2])
    if op == "MaxPool":
        yield Net("int8", d.i(2, 2, 5, 5, low=-99, high=99, kind=I8), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        yield Net("uint8", d.i(2, 2, 5, 5, low=0, high=256, kind=U8), kernel_shape=[2, 2], strides=[2, 2])
        yield Net("minus_inf", np.full((2, 1, 3, 3), -INF, F32), kernel_shape=[2, 2])


@writes("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(op, v, d):
    yield Net("2d", d.f(2, 3, 5, 4))
    yield Net("1d", d.f(2, 3, 5))
    yield Net("3d", d.f(2, 3, 2, 3, 2))
    yield Net("f16", d.f(2, 3, 4, 4, kind=F16))
    if op == "GlobalLpPool":
        yield Net("p1", d.f(2, 3, 4, 4), p=1)


@writes("BatchNormalization")
def batch_normalization(op, v, d):
    for tag, shape, attributes in (("4d", (2, 3, 4, 4), {}), ("2d", (3, 3), {}), ("3d", (2, 3, 5), {"epsilon": 0.01}),
                                   ("5d", (2, 3, 2, 2, 2), {}), ("momentum", (2, 3, 2, 2), {"momentum": 0.5})):
        yield Net(tag, d.f(*shape), [X, d.f(3), d.f(3), d.f(3), d.f(3, low=0.1)], **attributes)


@writes("InstanceNormalization", "GroupNormalization", "LayerNormalization", "MeanVarianceNormalization", "LpNormalization", "LRN")
def normalization(op, v, d):
    if op == "InstanceNormalization":
        for tag, shape, attributes in (("4d", (2, 3, 4, 4), {}), ("3d", (2, 3, 5), {}), ("epsilon", (2, 3, 4, 4), {"epsilon": 0.1})):
            yield Net(tag, d.f(*shape), [X, d.f(3), d.f(3)], **attributes)
    elif op == "GroupNormalization":
        for groups in (1, 2, 4):
            n = groups if v < 21 else 4
            yield Net(f"groups{groups}", d.f(2, 4, 3, 3), [X, d.f(n), d.f(n)], num_groups=groups)
        yield Net("3d", d.f(2, 4, 5), [X, d.f(2 if v < 21 else 4), d.f(2 if v < 21 else 4)], num_groups=2, epsilon=0.1)
    elif op == "LayerNormalization":
        yield Net("default", d.f(2, 3, 4), [X, d.f(4), d.f(4)])
        yield Net("no_bias", d.f(2, 3, 4), [X, d.f(4)])
        yield Net("axis1", d.f(2, 3, 4), [X, d.f(3, 4), d.f(3, 4)], axis=1, epsilon=0.1)
        yield Net("axis_minus2", d.f(2, 5, 3, 4), [X, d.f(3, 4), d.f(3, 4)], axis=-2)
        yield Net("f16", d.f(2, 8, kind=F16), [X, d.f(8, kind=F16), d.f(8, kind=F16)])
    elif op == "MeanVarianceNormalization":
        yield Net("spatial", d.f(2, 3, 4, 4), axes=[2, 3])
        yield Net("channels", d.f(2, 3, 4, 4), axes=[1, 2, 3])
        yield Net("default", d.f(2, 3, 4, 4))
    elif op == "LpNormalization":
        for p in (1, 2):
            yield Net(f"p{p}_axis1", d.f(2, 3, 4), p=p, axis=1)
        yield Net("default", d.f(2, 3, 4))
    else:
        yield Net("size3", d.f(2, 5, 3, 3), size=3)
        yield Net("size5", d.f(2, 7, 3, 3, high=9), size=5, alpha=0.01, beta=0.5, bias=2.0)
        yield Net("size_even", d.f(2, 5, 2, 2, high=9), size=2, alpha=0.5)


@writes("Clip")
def clip(op, v, d):
    def bounded(tag, x, low, high):
        if v < 11:
            given = {k: b for k, b in (("min", low), ("max", high)) if b is not None}
            return Net(tag, x, **given)
        bounds = [None if b is None else np.array(b, x.dtype) for b in (low, high)]
        while bounds and bounds[-1] is None:
            bounds.pop()
        return Net(tag, x, [X, *bounds])
    x = d.f(2, 3, 4, low=-9, high=9)
    yield bounded("both", x, -1.5, 6.0)
    yield bounded("low", x, -1.5, None)
    yield bounded("high", x, None, 2.5)
    yield bounded("none", x, None, None)
    yield bounded("special", SPECIAL, -1.0, 1.0)
    yield bounded("f16", x.astype(F16), 0.0, 6.0)
    if v >= 12:
        for kind in (I32, I64, I8, U8):
            yield bounded(np.dtype(kind).name, d.i(2, 5, low=0 if kind == U8 else -20, high=20, kind=kind), 2, 11)
        yield bounded("int64_large", ints([2**40, 5], [-(2**40), 2**33]), -(2**34), 2**34)
        yield Net("through_int64", d.i(2, 5), [X, np.array(-2, I64), np.array(5, I64)], through=I64)


@writes("Pad")
def pad(op, v, d):
    def padded(tag, x, pads, value=None, axes=None, **attributes):
        if v < 11:
            extra = {} if value is None else {"value": float(value)}
            return Net(tag, x, pads=pads, **extra, **attributes)
        args = [X, ints(*pads), None if value is None else np.array(value, x.dtype), None if axes is None else ints(*axes)]
        while args[-1] is None:
            args.pop()
        return Net(tag, x, args, **attributes)
    x = d.f(2, 3, 4, 5)
    spatial = [0, 0, 1, 2, 0, 0, 0, 1]
    yield padded("default", x, spatial)
    yield padded("value", x, spatial, 1.5)
    yield padded("channels", x, [0, 1, 0, 0, 0, 2, 0, 0], -1)
    yield padded("negative", x, [0, 0, -1, 1, 0, 0, 0, -2], 0.5)
    yield padded("batch", d.f(2, 3), [1, 0, 0, 1])
    for mode in ("reflect", "edge", "wrap") if v >= 19 else ("reflect", "edge"):
        yield padded(mode, x, spatial, mode=mode)
        yield padded(mode + "_2d", d.f(2, 4), [0, 2, 0, 3], mode=mode)
    if v >= 13:
        yield padded("int64", d.i(2, 3), [0, 1, 0, 1], 2**40)
    if v >= 18:
        yield padded("axes", x, [1, 2, 0, 1], 0.5, [2, 3])
        yield padded("axes_negative", x, [1, 1], None, [-1])
        yield padded("axes_reflect", x, [1, 1, 2, 2], None, [3, 2], mode="reflect")


@writes("Slice")
def slicing(op, v, d):
    def sliced(tag, starts, ends, axes=None, steps=None, kind=I64, x=None):
        x = d.f(2, 5, 6) if x is None else x
        if v < 10:
            given = {} if axes is None else {"axes": axes}
            return Net(tag, x, starts=starts, ends=ends, **given)
        args = [X, *(None if a is None else np.array(a, kind) for a in (starts, ends, axes, steps))]
        while args[-1] is None:
            args.pop()
        return Net(tag, x, args)
    most = 2**63 - 1
    yield sliced("axis1", [1], [4], [1])
    yield sliced("two_axes", [1, 0], [4, 3], [1, 2])
    yield sliced("to_the_end", [2], [most], [2])
    yield sliced("negative", [-3], [-1], [2])
    yield sliced("beyond", [1], [1000], [1])
    yield sliced("no_axes", [0, 1], [most, 3])
    yield sliced("of_the_batch", [1], [2], [0])
    yield sliced("int64", [1], [3], [1], x=d.i(2, 4) + 2**40)
    yield sliced("nothing", [3], [3], [1])
    if v >= 10:
        yield sliced("steps", [0], [5], [1], [2])
        yield sliced("reversed", [-1], [-most], [2], [-1])
        yield sliced("reversed_by_two", [4], [0], [1], [-2])
        yield sliced("negative_axis", [1], [3], [-1], [1])
        yield sliced("int32", [1, 0], [4, 5], [1, 2], [1, 2], kind=I32)


@writes("Split")
def split(op, v, d):
    def parts(tag, x, sizes, outputs, out, **attributes):
        if sizes is not None and v < 13:
            return Net(tag, x, outputs=outputs, out=out, split=sizes, **attributes)
        if v >= 18 and sizes is None:
            attributes["num_outputs"] = outputs
        return Net(tag, x, [X] if sizes is None else [X, ints(*sizes)], outputs=outputs, out=out, **attributes)
    yield parts("equal", d.f(2, 6, 3), None, 3, 1, axis=1)
    yield parts("uneven", d.f(2, 6, 3), [1, 2, 3], 3, 2, axis=1)
    yield parts("last_axis", d.f(2, 3, 4), [3, 1], 2, 0, axis=2)
    yield parts("batch", d.f(2, 3), None, 2, 0)
    if v >= 11:
        yield parts("negative_axis", d.f(2, 3, 4), [1, 3], 2, 1, axis=-1)
    if v >= 18:
        yield parts("remainder", d.f(2, 5), None, 3, 2, axis=1)


@writes("Squeeze", "Unsqueeze")
def squeeze(op, v, d):
    def along(tag, x, axes):
        if v < 13:
            return Net(tag, x, axes=axes)
        return Net(tag, x, [X, ints(*axes)])
    shape = (2, 1, 3, 1) if op == "Squeeze" else (2, 3)
    yield along("one", d.f(*shape), [1])
    yield along("two", d.f(*shape), [1, 3])
    if v >= 11:
        yield along("negative", d.f(*shape), [-1])
    yield along("int64", d.i(*shape) + 2**40, [1])
    if op == "Squeeze":
        yield Net("no_axes", d.f(2, 1, 3, 1))
    else:
        yield along("batch", d.f(*shape), [0])


REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
              "ReduceLogSumExp", "ReduceSumSquare"]


@writes(*REDUCTIONS)
def reduction(op, v, d):
    def reduced(tag, x, axes, through=None, **attributes):
        if axes is not None and v < (13 if op == "ReduceSum" else 18):
            return Net(tag, x, through=through, axes=axes, **attributes)
        return Net(tag, x, [X] if axes is None else [X, ints(*axes)], through=through, **attributes)
    low = 0.2 if op == "ReduceLogSum" else -2
    x = d.f(2, 3, 4, low=low)
    yield reduced("axis1", x, [1])
    yield reduced("axis1_dropped", x, [1], keepdims=0)
    yield reduced("two_axes", x, [1, 2])
    yield reduced("two_axes_dropped", x, [2, 1], keepdims=0)
    yield reduced("spatial", d.f(2, 3, 4, 4, low=low), [2, 3], keepdims=0)
    if v >= 11:
        yield reduced("negative", x, [-1])
        yield reduced("negative_dropped", x, [-2], keepdims=0)
    yield reduced("default", x, None)
    yield reduced("batch", x, [0], keepdims=0)
    if v >= (13 if op == "ReduceSum" else 18):
        yield reduced("no_axes_noop", x, None, noop_with_empty_axes=1)
        yield reduced("empty_axes_noop", x, [], noop_with_empty_axes=1)
        yield reduced("empty_axes", x, [])
    yield reduced("f16", d.f(2, 5, low=low, kind=F16), [1])
    for kind in (I32, I64, I8, U8):
        yield reduced(np.dtype(kind).name, d.i(2, 3, low=1, high=6, kind=kind), [1])
    yield reduced("through_int64", d.i(2, 3, low=1, high=6), [1], through=I64)
    if op in ("ReduceSum", "ReduceMax", "ReduceMin"):
        yield reduced("int64_large", ints([2**40, 3], [2**33, 2**35 + 1]), [1])
        yield reduced("special", f32([INF, 1], [-INF, 2]), [1])


@writes("ArgMax", "ArgMin")
def arg(op, v, d):
    x, tied = d.f(2, 3, 4), f32([1, 3, 3, 1], [2, 2, 2, 2])
    yield Net("axis1", x, axis=1)
    yield Net("axis2_dropped", x, axis=2, keepdims=0)
    yield Net("tie", tied, axis=1)
    yield Net("default", x)
    yield Net("int32", d.i(2, 5, kind=I32), axis=1)
    yield Net("uint8", d.i(2, 5, low=0, high=99, kind=U8), axis=1)
    if v >= 11:
        yield Net("negative_dropped", x, axis=-1, keepdims=0)
    if v >= 12:
        yield Net("tie_last", tied, axis=1, select_last_index=1)


@writes("Gemm")
def gemm(op, v, d):
    a, b = d.f(2, 4), d.f(4, 3)
    yield Net("bias", a, [X, b, d.f(3)])
    yield Net("transposed", a, [X, d.f(3, 4), d.f(3)], transB=1)
    yield Net("scaled", a, [X, b, d.f(1, 3)], alpha=0.5, beta=-2.0)
    yield Net("bias_scalar", a, [X, b, np.array(0.5, F32)])
    yield Net("bias_of_one", a, [X, b, f32(0.5)], beta=0.0)
    yield Net("bias_column", a, [X, b, d.f(2, 1)])
    yield Net("input_transposed", d.f(4, 2), [X, b, d.f(3)], transA=1)
    yield Net("input_second", d.f(4, 3), [d.f(2, 4), X, d.f(3)])
    if v >= 11:
        yield Net("no_bias", a, [X, b])
        yield Net("no_bias_scaled", a, [X, b], alpha=2.0)
    yield Net("f16", d.f(2, 4, kind=F16), [X, d.f(4, 3, kind=F16), d.f(3, kind=F16)])
    yield Net("int32", d.i(2, 4, kind=I32), [X, d.i(4, 3, kind=I32), d.i(3, kind=I32)])


@writes("MatMul")
def matmul(op, v, d):
    yield Net("2d", d.f(2, 4), [X, d.f(4, 3)])
    yield Net("vector", d.f(2, 4), [X, d.f(4)])
    yield Net("3d", d.f(2, 3, 4), [X, d.f(4, 5)])
    yield Net("3d_vector", d.f(2, 3, 4), [X, d.f(4)])
    yield Net("3d_by_3d", d.f(2, 3, 4), [X, d.f(1, 4, 5)])
    yield Net("4d_by_3d", d.f(2, 2, 3, 4), [X, d.f(2, 4, 5)])
    yield Net("constant_first", d.f(2, 3, 4), [d.f(5, 3), X])
    yield Net("vector_first", d.f(2, 3, 4), [d.f(3), X])
    yield Net("itself", d.f(2, 3, 3), [X, X])
    yield Net("f16", d.f(2, 4, kind=F16), [X, d.f(4, 3, kind=F16)])
    for kind in (I32, I64):
        yield Net(np.dtype(kind).name, d.i(2, 4, kind=kind), [X, d.i(4, 3, kind=kind)])
    yield Net("int64_large", d.i(2, 3) * 2**33, [X, d.i(3, 2)])
    yield Net("minus_inf", f32([1, -INF], [2, 3]), [X, f32([1, 2], [3, 4])])


@writes("Einsum")
def einsum(op, v, d):
    yield Net("matmul", d.f(2, 3, 4), [X, d.f(4, 5)], equation="bij,jk->bik")
    yield Net("transpose", d.f(2, 3, 4), equation="bij->bji")
    yield Net("attention", d.f(2, 2, 3, 4), [X, X], equation="bhid,bhjd->bhij")
    yield Net("sum", d.f(2, 3, 4), equation="bij->bi")
    yield Net("diagonal", d.f(2, 3, 3), equation="bii->bi")
    yield Net("implicit", d.f(2, 3), [X, d.f(3, 4)], equation="ab,bc")
    yield Net("ellipsis", d.f(2, 3, 4), [X, d.f(4, 5)], equation="...j,jk->...k")
    yield Net("over_the_batch", d.f(2, 3), equation="bi->i")


@writes("Cast")
def cast(op, v, d):
    def to(tag, x, kind):
        return Net(tag, x, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    x = f32([1.9, -1.9, 0.5], [-0.5, 100.0, -0.0])
    for kind in (I32, I64, I8, F16, F32, np.bool_):
        yield to(f"f32_to_{np.dtype(kind).name}", x, kind)
    yield to("f32_to_uint8", f32([1.9, 0.2], [254.7, 255]), U8)
    yield to("f32_to_bool_special", f32([NAN, INF], [1e-30, 0]), np.bool_)
    yield to("f32_to_f16_special", f32([NAN, INF, 1e6], [-INF, 1e-6, 1 + 2**-11]), F16)
    yield to("f32_to_int64_large", f32([2**40, -(2**33)], [3e9, 5]), I64)
    for kind in (I32, I64, I8, U8):
        values = np.array([[0, 1, 100], [7, 3, 120]], kind)
        for other in (F32, F16, np.bool_, I32, I64, U8):
            if other != kind:
                yield to(f"{np.dtype(kind).name}_to_{np.dtype(other).name}", values, other)
    yield to("int64_to_f32_large", ints([2**40 + 1, -(2**33)], [3_000_000_001, 2**24 + 1]), F32)
    yield to("int64_to_int32_negative", ints([-5, -(2**31)], [2**31 - 1, 0]), I32)
    yield to("int32_to_int64_negative", np.array([[-5, -(2**31)], [2**31 - 1, 0]], I32), I64)
    yield to("f16_to_f32", np.array([[1.5, -65504], [NAN, 6e-8]], F16), F32)
    yield to("f16_to_int32", np.array([[1.5, -7.9], [60000, 0]], F16), I32)
    for kind in (F32, I32, I64):
        yield to(f"bool_to_{np.dtype(kind).name}", np.array([[True, False], [False, True]]), kind)


@writes("Flatten", "Reshape", "Transpose")
def layout(op, v, d):
    if op == "Flatten":
        yield Net("default", d.f(2, 3, 4))
        for axis in (0, 1, 2, 3) + ((-1, -2) if v >= 11 else ()):
            yield Net(f"axis{axis}".replace("-", "_minus"), d.f(2, 3, 4), axis=axis)
        yield Net("int64", d.i(2, 3, 4) + 2**40)
    elif op == "Reshape":
        for tag, shape in (("rest", [0, -1]), ("first", [-1, 12]), ("keep", [0, 2, 6]), ("keep_two", [0, 0, -1]),
                           ("more", [-1, 3, 2, 2]), ("of_one", [0, 1, -1, 1]), ("baked", [2, 12]), ("all", [-1])):
            yield Net(tag, d.f(2, 3, 4), [X, ints(*shape)])
        yield Net("int64", d.i(2, 3, 4) + 2**40, [X, ints(0, -1)])
        if v >= 14:
            yield Net("allowzero", d.f(2, 3, 4), [X, ints(-1, 4, 3)], allowzero=1)
    else:
        yield Net("default", d.f(2, 3, 4))
        yield Net("swap", d.f(2, 3, 4), perm=[0, 2, 1])
        yield Net("channels_last", d.f(2, 3, 4, 5), perm=[0, 2, 3, 1])
        yield Net("5d", d.f(2, 2, 3, 2, 3), perm=[0, 3, 4, 2, 1])
        yield Net("same", d.f(2, 3), perm=[0, 1])
        yield Net("int64", d.i(2, 3, 4) + 2**40, perm=[0, 2, 1])
        yield Net("f16", d.f(2, 3, 4, kind=F16), perm=[0, 2, 1])


@writes("Concat", "Expand", "Tile", "Where", "Dropout", "PRelu", "DepthToSpace", "SpaceToDepth")
def movement(op, v, d):
    x = d.f(2, 3, 4)
    if op == "Concat":
        yield Net("twice", x, [X, X], axis=1)
        yield Net("thrice", x, [X, X, X], axis=2)
        yield Net("alone", x, [X], axis=1)
        yield Net("baked", x, [X, d.f(2, 1, 4)], axis=1)
        yield Net("batch", x, [X, X], axis=0)
        yield Net("int64", d.i(2, 3) + 2**40, [X, X], axis=1)
        if v >= 11:
            yield Net("negative", x, [X, X], axis=-1)
    elif op == "Expand":
        for tag, shape in (("middle", [1, 3, 1]), ("shorter", [3, 4]), ("baked", [2, 3, 4]), ("same", [1]), ("longer", [1, 2, 3, 4])):
            yield Net(tag, d.f(2, 1, 4), [X, ints(*shape)])
        yield Net("int64", d.i(2, 1) + 2**40, [X, ints(1, 3)])
    elif op == "Tile":
        for tag, repeats in (("middle", [1, 2, 1]), ("both", [1, 2, 3]), ("none", [1, 1, 1]), ("batch", [2, 1, 1])):
            yield Net(tag, x, [X, ints(*repeats)])
        yield Net("int64", d.i(2, 3) + 2**40, [X, ints(1, 2)])
    elif op == "Where":
        mask = np.array([[True, False, True, False]] * 3)
        yield Net("mask", x, [mask, X, d.f(1)])
        yield Net("second", x, [mask, d.f(4), X])
        yield Net("int64", d.i(2, 3) + 2**40, [np.array([True, False, True]), X, ints(-1)])
        yield Net("of_comparison", x, nodes=[("Greater", [X, f32(0)], ["m"], {}), (op, ["m", X, f32(-INF)], ["y"], {})])
        yield Net("of_input", np.array([[True, False], [False, False]]), [X, f32(1, 2), f32(NAN)])
    elif op == "Dropout":
        yield Net("default", x)
        yield Net("ratio", x, **({"ratio": 0.3} if v < 12 else {"args": [X, np.array(0.3, F32)]}))
        if v >= 12:
            yield Net("not_training", x, [X, np.array(0.7, F32), np.array(False)])
    elif op == "PRelu":
        for tag, slope in (("channels", d.f(3, 1, 1)), ("one", d.f(1)), ("last", d.f(5)), ("all", d.f(3, 4, 5))):
            yield Net(tag, d.f(2, 3, 4, 5), [X, slope])
    else:
        shape = (2, 8, 2, 3) if op == "DepthToSpace" else (2, 2, 4, 6)
        yield Net("default", d.f(*shape), blocksize=2)
        if op == "DepthToSpace" and v >= 11:
            yield Net("dcr", d.f(*shape), blocksize=2, mode="DCR")
            yield Net("crd", d.f(*shape), blocksize=2, mode="CRD")


@writes("Gather", "GatherElements", "GatherND", "ScatterElements", "TopK", "OneHot", "CumSum", "Trilu")
def indexing(op, v, d):
    x = d.f(2, 5, 3)
    order = f32([2, 0, 1], [0, 2, 1])  # each row is its own index
    indexed = [("Cast", [X], ["i"], {"to": TensorProto.INT64})]
    if op == "Gather":
        yield Net("axis1", x, [X, ints(0, 3)], axis=1)
        yield Net("scalar", x, [X, np.array(2, I64)], axis=1)
        yield Net("matrix", x, [X, ints([0, 1], [4, 4])], axis=1)
        yield Net("last_int32", x, [X, np.array([2, 0], I32)], axis=2)
        yield Net("embedding", d.i(2, 3, low=0, high=6), [d.f(6, 4), X])
        yield Net("embedding_through_int64", d.i(2, 3, low=0, high=6), [d.f(6, 4), X], through=I64)
        yield Net("of_the_batch", x, [X, ints(0)])
        if v >= 11:
            yield Net("negative", x, [X, ints(-1, 0)], axis=-2)
            yield Net("embedding_negative", ints([-1, 2], [0, -6]), [d.f(6, 4), X])
    elif op == "GatherElements":
        yield Net("by_row", order, nodes=[*indexed, (op, [X, "i"], ["y"], {"axis": 1})])
        yield Net("baked", d.f(2, 3), [X, ints([0, -1], [1, 1])], axis=1)
    elif op == "GatherND" and v >= 12:
        yield Net("by_row", order, nodes=[*indexed, ("Reshape", ["i", ints(0, 3, 1)], ["j"], {}),
                                          (op, [X, "j"], ["y"], {"batch_dims": 1})])
    elif op == "ScatterElements":
        yield Net("by_row", order, nodes=[*indexed, (op, [X, "i", X], ["y"], {"axis": 1})])
        if v >= 16:
            yield Net("add", order, nodes=[*indexed, (op, [X, "i", X], ["y"], {"axis": -1, "reduction": "add"})])
    elif op == "TopK":
        def top(tag, out, k=2, **attributes):
            if v < 10:
                return Net(tag, x, outputs=2, out=out, k=k, **attributes)
            return Net(tag, x, [X, ints(k)], outputs=2, out=out, **attributes)
        yield top("values", 0)
        yield top("indices", 1)
        yield top("axis1", 0, 3, axis=1)
        if v >= 11:
            yield top("smallest", 0, largest=0)
    elif op == "OneHot":
        values, depth = f32(0.5, 2), np.array(4, I64)
        yield Net("last", d.i(2, 3, low=0, high=4), [X, depth, values])
        yield Net("axis1", d.i(2, 3, low=0, high=4), [X, depth, values], axis=1)
        yield Net("through_int64", d.i(2, 3, low=0, high=4), [X, depth, values], through=I64)
        if v >= 11:
            yield Net("negative", ints([-1, 0], [-4, 9]), [X, depth, values])
    elif op == "CumSum":
        for tag, axis, attributes in (("axis1", 1, {}), ("negative", -1, {}), ("exclusive", 1, {"exclusive": 1}),
                                      ("reverse", 2, {"reverse": 1}), ("both", 1, {"exclusive": 1, "reverse": 1}), ("batch", 0, {})):
            yield Net(tag, x, [X, np.array(axis, I64)], **attributes)
        yield Net("int64", d.i(2, 3) + 2**40, [X, np.array(1, I32)])
    elif op == "Trilu":
        for tag, args, attributes in (("default", [X], {}), ("lower", [X], {"upper": 0}), ("k1", [X, np.array(1, I64)], {}),
                                      ("lower_k", [X, np.array(-1, I64)], {"upper": 0})):
            yield Net(tag, d.f(2, 4, 3), args, **attributes)
        yield Net("int64", d.i(2, 3, 3) + 2**40)


@writes("Resize", "Upsample")
def resize(op, v, d):
    x = d.f(2, 2, 4, 5)
    up, down, odd = f32(1, 1, 2, 2), f32(1, 1, 0.5, 0.6), f32(1, 1, 1.5, 2.4)
    if v < 11:
        for mode in ("nearest", "linear"):
            for tag, scales in (("up", up), ("odd", odd), ("down", down))[: 3 if op == "Resize" else 2]:
                yield Net(f"{mode}_{tag}", x, [X, scales], mode=mode)
        yield Net("default", x, [X, up])
        return
    roi = np.zeros(0, F32) if v < 13 else None
    modes = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"] + (["half_pixel_symmetric"] if v >= 19 else [])
    yield Net("default", x, [X, roi, up])
    for coordinates in modes:
        for tag, mode, scales in (("up", "linear", up), ("down", "linear", down), ("odd", "linear", odd), ("odd", "cubic", odd)):
            yield Net(f"{mode}_{coordinates}_{tag}", x, [X, roi, scales], mode=mode, coordinate_transformation_mode=coordinates)
    for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
        for tag, scales, coordinates in (("up", up, "asymmetric"), ("odd", odd, "half_pixel")):
            yield Net(f"nearest_{nearest}_{tag}", x, [X, roi, scales], mode="nearest", nearest_mode=nearest,
                      coordinate_transformation_mode=coordinates)
    empty = np.zeros(0, F32) if v < 13 else None
    yield Net("sizes", x, [X, roi, empty, ints(2, 2, 7, 3)], mode="linear")
    yield Net("cubic_coefficient", x, [X, roi, up], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1)
    if v >= 18:
        yield Net("axes_sizes", x, [X, None, None, ints(7, 3)], mode="linear", axes=[2, 3])
        yield Net("axes_scales", x, [X, None, f32(2, 3)], mode="nearest", axes=[3, 2])
        yield Net("antialias", x, [X, None, down], mode="linear", antialias=1)
        yield Net("not_larger", x, [X, None, None, ints(8, 8)], mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger")


@writes("Shape", "Size", "ConstantOfShape", "Constant", "Range", "EyeLike")
def shapes(op, v, d):
    """Arithmetic on shapes, as exporters write it."""
    x = d.f(2, 3, 4)
    to_float = {"to": TensorProto.FLOAT}
    if op == "Shape":
        batch = [(op, [X], ["s"], {}), ("Gather", ["s", ints(0)], ["b"], {"axis": 0})]
        yield Net("reshape", x, nodes=[*batch, ("Concat", ["b", ints(-1)], ["t"], {"axis": 0}), ("Reshape", [X, "t"], ["y"], {})])
        yield Net("channels", x, nodes=[batch[0], ("Gather", ["s", np.array(1, I64)], ["c"], {}), ("Cast", ["c"], ["f"], to_float),
                                        ("Mul", [X, "f"], ["y"], {})])
        yield Net("expand", d.f(2, 1, 4), nodes=[*batch, ("Concat", ["b", ints(3, 4)], ["t"], {"axis": 0}),
                                                 ("Expand", [X, "t"], ["y"], {})])
        yield Net("alone", x)
        if v >= 15:
            yield Net("start_end", x, nodes=[(op, [X], ["s"], {"start": -2, "end": 3}), ("Cast", ["s"], ["f"], to_float),
                                             ("ReduceMax", ["f"], ["m"], {"keepdims": 0}), ("Div", [X, "m"], ["y"], {})])
    elif op == "Size":
        yield Net("of_constant", x, nodes=[(op, [d.f(5, 7)], ["s"], {}), ("Cast", ["s"], ["f"], to_float), ("Add", [X, "f"], ["y"], {})])
        yield Net("of_input", x, nodes=[(op, [X], ["s"], {}), ("Cast", ["s"], ["f"], to_float), ("Div", [X, "f"], ["y"], {})])
    elif op == "ConstantOfShape":
        shape = ("Shape", [X], ["s"], {})
        value = {"value": helper.make_tensor("v", TensorProto.FLOAT, [1], [1.5])}
        whole = {"value": helper.make_tensor("v", TensorProto.INT64, [1], [2**40])}
        yield Net("default", x, nodes=[shape, (op, ["s"], ["c"], {}), ("Add", [X, "c"], ["y"], {})])
        yield Net("value", x, nodes=[shape, (op, ["s"], ["c"], value), ("Mul", [X, "c"], ["y"], {})])
        yield Net("int64", x, nodes=[shape, (op, ["s"], ["y"], whole)])
        yield Net("fixed", x, nodes=[(op, [ints(3, 4)], ["c"], value), ("Sub", ["c", X], ["y"], {})])
        yield Net("state", x, nodes=[shape, ("Gather", ["s", ints(0)], ["b"], {"axis": 0}), ("Concat", ["b", ints(5)], ["t"], {"axis": 0}),
                                     (op, ["t"], ["y"], value)])
    elif op == "Constant":
        kinds = [("tensor", {"value": numpy_helper.from_array(d.f(3, 1))})]
        if v >= 12:
            kinds += [("float", {"value_float": 2.5}), ("floats", {"value_floats": [1.0, 2.0, 3.0, 4.0]})]
        for tag, attributes in kinds:
            yield Net(tag, x, nodes=[(op, [], ["c"], attributes), ("Add", [X, "c"], ["y"], {})])
    elif op == "Range":
        zero, one = np.array(0, I64), np.array(1, I64)
        yield Net("positions", d.f(2, 3), nodes=[
            ("Shape", [X], ["s"], {}), ("Gather", ["s", one], ["n"], {}), (op, [zero, "n", one], ["r"], {}),
            ("Cast", ["r"], ["f"], to_float), ("Add", [X, "f"], ["y"], {})])
        for tag, low, high, step in (("fractions", 0, 1.4, 0.5), ("downwards", 3, 0, -1)):
            yield Net(tag, d.f(2, 3), nodes=[(op, [np.array(n, F32) for n in (low, high, step)], ["r"], {}), ("Mul", [X, "r"], ["y"], {})])


@writes("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
def quantization(op, v, d):
    if op == "QuantizeLinear":
        x = f32([0.25, 0.75, 1.25, -0.25], [400, -400, 3.3, -3.3])
        scale = np.array(0.5, F32)
        for kind, zero in ((U8, 128), (U8, 0), (I8, 0), (I8, -3)):
            yield Net(f"{np.dtype(kind).name}_zero{zero}".replace("-", "_minus"), x, [X, scale, np.array(zero, kind)])
        yield Net("no_zero_point", abs(x), [X, scale])
        if v >= 13:
            yield Net("axis1", d.f(2, 3, 4, high=9), [X, f32(0.1, 0.2, 0.5), np.array([0, 3, 100], U8)])
            yield Net("last_axis", d.f(2, 3, high=9), [X, f32(0.1, 0.2, 0.5), np.array([0, 3, -5], I8)], axis=-1)
        if v >= 21:
            yield Net("blocked", d.f(2, 4), [X, f32([0.1, 0.2], [0.1, 0.3]), np.zeros((2, 2), I8)], axis=1, block_size=2)
        yield Net("and_back", x, nodes=[(op, [X, scale, np.array(7, U8)], ["q"], {}),
                                        ("DequantizeLinear", ["q", scale, np.array(7, U8)], ["y"], {})])
    elif op == "DequantizeLinear":
        for kind, low in ((U8, 0), (I8, -128)):
            x = d.i(2, 3, 4, low=low, high=low + 256, kind=kind)
            yield Net(f"{np.dtype(kind).name}", x, [X, np.array(0.25, F32), np.array(9, kind)])
            yield Net(f"{np.dtype(kind).name}_no_zero_point", x, [X, np.array(0.25, F32)])
            if v >= 13:
                yield Net(f"{np.dtype(kind).name}_axis1", x, [X, f32(0.1, 0.2, 0.5), np.array([1, 2, 3], kind)])
        yield Net("int32", d.i(2, 3, kind=I32), [X, np.array(0.25, F32)])
    else:
        yield Net("one", d.f(1, 6), outputs=3)
        yield Net("two", d.f(2, 6), outputs=3)


@writes("MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv")
def integer_products(op, v, d):
    scale, zero = np.array(0.02, F32), np.array(5, U8)
    if "MatMul" in op:
        # Weights this small don't saturate 16 bits where a processor adds products in pairs, as ONNX Runtime has some do.
        x, w = d.i(2, 3, 8, low=0, high=256, kind=U8), d.i(8, 4, low=-60, high=60, kind=I8)
    else:
        x, w = d.i(2, 3, 5, 5, low=0, high=256, kind=U8), d.i(4, 3, 3, 3, low=0, high=256, kind=U8)
    if op.endswith("Integer"):
        if op == "MatMulInteger":
            yield Net("int8_weights", x, [X, w, zero])
            w = d.i(8, 4, low=0, high=256, kind=U8)
        yield Net("no_zero_points", x, [X, w])
        yield Net("zero_points", x, [X, w, zero, zero])
    else:
        yield Net("uint8", x, [X, scale, zero, w, scale, np.array(0, w.dtype), np.array(0.5, F32), zero])


def written():
    """(name, operator, opset, net) of every network written above, in every version of its operator."""
    for operator in sorted(WRITTEN):
        for first, _ in sorted(versions(operator).values()):
            for net in WRITTEN[operator](operator, first, Draw(operator)):
                yield f"{operator}_{first}_{net.tag}", operator, first, net


# ---------------------------------------------------------------- the standard's own tests

# Random, of training, or with graphs, text or pictures inside: no network that Graft would serve.
LEFT_OUT = {"Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial", "If", "Loop", "Scan", "ImageDecoder",
            "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "ConstantOfShape", "Constant", "EyeLike", "BitCast",
            "OptionalGetElement", "OptionalHasElement"}
# Operators of elements or of matrices: a test whose operands share the first dimension fits a batch of two such tests.
STACKABLE = {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "And", "Or", "Xor", "Equal", "Greater", "Less",
             "GreaterOrEqual", "LessOrEqual", "Where", "PRelu", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "MatMul",
             "MatMulInteger", "QLinearMatMul"}
BACKPORTS = 2  # tests of one operator to try in each of its older versions


class Dropped(Exception):
    """Why there is no case."""


def array_of(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def tensor_of(value, name, elem_type):
    if isinstance(value, TensorProto):
        tensor = copy.deepcopy(value)
        tensor.name = name
        return tensor
    array = np.asarray(value)
    return numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(elem_type)), name)


def data_input(arrays):
    """The first tensor that may be data: of numbers if there is one."""
    ranked = [i for i, a in enumerate(arrays) if a.ndim and a.dtype.name in SERVED]
    numbers = [i for i in ranked if arrays[i].dtype != np.bool_]
    if not ranked:
        raise Dropped("no input of a rank and type that a batch may have")
    return (numbers or ranked)[0]


def trimmed(node, definition):
    """The node with the outputs it needs for its first one."""
    node = copy.deepcopy(node)
    first = next(i for i, name in enumerate(node.output) if name)
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    while len(node.output) - 1 > first and len(node.output) <= len(definition.outputs) \
            and definition.outputs[len(node.output) - 1].option == optional:
        node.output.pop()
    return node, node.output[first]


def standard_parts(test):
    """(node, input, input's name, initializers, output's name, expected) of one of the standard's tests."""
    graph, (inputs, outputs) = test.model.graph, test.data_sets[0]
    if any(not v.type.HasField("tensor_type") for v in [*graph.input, *graph.output]):
        raise Dropped("sequences and optional values")
    if any(v.type.tensor_type.elem_type == TensorProto.STRING for v in [*graph.input, *graph.output]):
        raise Dropped("strings")
    opset = test.model.opset_import[0].version
    definition = onnx.defs.get_schema(graph.node[0].op_type, opset)
    node, y_name = trimmed(graph.node[0], definition)
    arrays = [array_of(v) for v in inputs]
    at = data_input(arrays)
    consts = [tensor_of(v, info.name, info.type.tensor_type.elem_type)
              for i, (v, info) in enumerate(zip(inputs, graph.input)) if i != at]
    expected = array_of(outputs[0])
    if not arrays[at].shape[0]:
        raise Dropped("an empty batch")
    node.name = node.op_type
    return node, arrays[at], graph.input[at].name, consts, y_name, expected, definition.since_version


def standard_tests():
    from onnx.backend.test.case import node as source
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = list(source.collect_testcases())
    for test in sorted(tests, key=lambda t: t.name):
        nodes = test.model.graph.node
        if "_expanded" in test.name or len(nodes) != 1 or nodes[0].domain not in ("", "ai.onnx"):
            continue
        if nodes[0].op_type not in LEFT_OUT:
            yield test


def opset_for(operator, since, last):
    """The newest opset that has the test's version of the operator, or `last` for a version newer than that."""
    for known, (_, newest) in versions(operator).items():
        if known == since:
            return newest
    if since <= last or not schema(operator, last):
        raise Dropped("an operator that opsets 9 to 21 don't have")
    return last


# ---------------------------------------------------------------- what is right

def run(model, x, optimized=False):
    import onnxruntime
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as why:
        kind = "has no kernel for" if "NOT_IMPLEMENTED" in str(why) or "Could not find an implementation" in str(why) else "does not load"
        raise Dropped(f"onnxruntime {kind} it") from None
    try:
        return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])
    except Exception:
        raise Dropped("onnxruntime does not run it") from None


def tolerance(kinds):
    if "float16" in kinds:
        return 1e-2, 1e-3
    return 1e-4, 1e-5


def same(got, expected, rtol, atol):
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return False
    if got.dtype.kind != "f":
        return bool(np.array_equal(got, expected))
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    largest = np.abs(expected[finite]).max(initial=0)
    exact = np.array_equal(got[~finite], expected[~finite], equal_nan=True)
    return bool(exact and (np.abs(got[finite] - expected[finite]) <= atol + rtol * largest).all())


def rows(model, x, expected, rtol, atol):
    """(Whether each row of the output belongs to one row of the input, shape of the output where x's first size is open).

    The rows are put in another order, alone, and twice: the output's must follow.
    """
    unknown = [None] * expected.ndim
    try:
        double = run(model, np.concatenate([x, x]))
    except Dropped:
        return False, unknown
    if not expected.ndim or double.shape != (2 * expected.shape[0], *expected.shape[1:]) or expected.shape[0] != x.shape[0]:
        return False, unknown if double.shape != expected.shape else list(expected.shape)
    shape = ["N", *expected.shape[1:]]
    try:
        follow = same(double, np.concatenate([expected, expected]), rtol, atol) \
            and same(run(model, np.ascontiguousarray(x[::-1])), np.ascontiguousarray(expected[::-1]), rtol, atol) \
            and all(same(run(model, x[i:i + 1]), expected[i:i + 1], rtol, atol) for i in range(len(x)))
    except Dropped:
        follow = False
    return follow, shape


class Cases:
    """Writes cases that hold, and counts those that don't."""
    def __init__(self, folder, only):
        self.folder, self.only = folder, only
        self.dropped, self.kept = collections.Counter(), {}

    def wanted(self, name):
        return fnmatch.fnmatchcase(name.lower(), self.only.lower())

    def add(self, name, operator, opset, source, make, x, expected):
        """Keeps the case or raises Dropped. make(kind, shape) is the model with such an output."""
        name = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        with np.errstate(all="ignore"):
            model, x, expected, rtol, atol, follow = self.hold(make, x, expected, schema(operator, opset))
        first, last = versions(operator)[schema(operator, opset).since_version]
        about = {"case": name, "operator": operator, "opset": opset, "source": source, "rtol": rtol, "atol": atol,
                 "since": first, "until": last, "rows": follow}
        folder = self.folder / name
        data = folder / "test_data_set_0"
        data.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        for file, array, value in (("input_0.pb", x, model.graph.input[0]), ("output_0.pb", expected, model.graph.output[0])):
            (data / file).write_bytes(numpy_helper.from_array(array, value.name).SerializeToString(deterministic=True))
        (folder / "case.json").write_text(json.dumps(about) + "\n")
        self.kept[name] = about

    def hold(self, make, x, expected, definition):
        """The model with its final shape, its tensors and how exact they are, if ONNX and ONNX Runtime agree to it."""
        try:
            untyped = make(np.dtype(F32), None)
            untyped.graph.output[0].ClearField("type")
            got = run(untyped, x)
            trial = make(got.dtype, None)
        except (KeyError, TypeError, ValueError):
            raise Dropped("the output's type can't be told") from None
        if x.dtype.name not in SERVED or got.dtype.name not in SERVED:
            raise Dropped("a type of input or output that Graft has not")
        rtol, atol = tolerance({str(x.dtype), str(got.dtype)})
        if got.dtype.kind != "f":
            rtol = atol = 0.0
        if expected is None:
            expected = got
        elif not same(got, expected, rtol, atol):
            raise Dropped("onnxruntime does not give what the standard's test expects")
        if not same(run(trial, x, optimized=True), expected, rtol, atol):
            raise Dropped("onnxruntime's optimizations change the result")
        follow, shape = rows(trial, x, expected, rtol, atol)
        model = make(expected.dtype, shape)
        try:
            if not definition.deprecated:
                onnx.checker.check_model(model, full_check=True)
        except Exception:
            raise Dropped("onnx.checker does not accept it") from None
        if not same(run(model, x), expected, rtol, atol):
            raise Dropped("onnxruntime does not give the same twice")
        return model, x, expected, rtol, atol, follow


def add_standard(cases, test, opset=None):
    """One of the standard's tests as a case; at an older opset if one is given."""
    node, x, x_name, consts, y_name, expected, since = standard_parts(test)
    operator = node.op_type
    name = operator + "_std_" + test.name.removeprefix("test_").removeprefix(operator.lower() + "_")
    if opset:
        name += f"_at{opset}"
    opset = opset or opset_for(operator, since, NEWEST)

    def make(kind, shape):
        return model_of([node], consts, x_name, y_name, x, kind, shape, opset)

    def stacked(kind, shape):
        return model_of([node], consts, x_name, y_name, np.stack([x, x]), kind, shape, opset)

    if not cases.wanted(name):
        return None
    if operator in STACKABLE and any(len(c.dims) >= x.ndim and c.dims[len(c.dims) - x.ndim] > 1 for c in consts):
        cases.add(name + "_stacked", operator, opset, STANDARD, stacked, np.stack([x, x]), np.stack([expected, expected]))
    else:
        cases.add(name, operator, opset, STANDARD, make, x, expected)
    return operator, opset


def add_written(cases, name, operator, opset, net):
    nodes, consts = net.graph(operator)
    cases.add(name, operator, opset, RUNTIME,
              lambda kind, shape: model_of(nodes, consts, X, "y", net.x, kind, shape, opset), net.x, None)


def write_cases(arguments):
    if arguments.folder.exists() and any(arguments.folder.iterdir()) and not any(arguments.folder.glob("*/case.json")):
        sys.exit(f"{arguments.folder} holds something else: name an empty folder")
    shutil.rmtree(arguments.folder, ignore_errors=True)
    cases = Cases(arguments.folder, arguments.only)

    def attempt(source, function, *args):
        try:
            return function(cases, *args)
        except Dropped as why:
            cases.dropped[f"{source}: {why}"] += 1
            if arguments.verbose:
                print(f"dropped {args[0] if isinstance(args[0], str) else args[0].name}: {why}", file=sys.stderr)
            return None

    tests = collections.defaultdict(list)
    for test in standard_tests():
        done = attempt(STANDARD, add_standard, test)
        if done:
            tests[done].append(test)
    for (operator, opset), passed in sorted(tests.items()):
        for first, last in versions(operator).values():
            kept = 0
            for test in passed:
                if last < opset and kept < BACKPORTS and attempt(f"{STANDARD}, older opset", add_standard, test, first):
                    kept += 1
    for name, operator, opset, net in written():
        if cases.wanted(name):
            attempt(RUNTIME, add_written, name, operator, opset, net)

    for why, count in sorted(cases.dropped.items()):
        print(f"dropped {count}: {why}", file=sys.stderr)
    sources = collections.Counter(about["source"] for about in cases.kept.values())
    operators = {about["operator"] for about in cases.kept.values()}
    print(f"{len(cases.kept)} cases of {len(operators)} operators: " + ", ".join(f"{n} {s}" for s, n in sorted(sources.items())))
    if not cases.kept:
        sys.exit("no case is left")


# ---------------------------------------------------------------- the table

RIGHT, REFUSED, WRONG, BROKEN = "right", "refused", "wrong", "broken"
TIMEOUT_S, AT_ONCE, REASON = 60, 2, 110
# What a reason says of this one case: names and numbers. Reasons that differ in nothing else are one.
PARTICULAR = re.compile(r"-?\d+")


def read_cases(folder):
    cases = [json.loads(file.read_text()) for file in sorted(folder.glob("*/case.json"))]
    if not cases:
        sys.exit(f"no cases in {folder}: make them with `operators.py cases {folder}`")
    return cases


def verdict(graft, engine, folder):
    """(RIGHT, REFUSED, WRONG or BROKEN, why)."""
    command = [graft, "model", "check", str(folder / "model.onnx"), "--against", str(folder / "test_data_set_0"),
               "--engine", engine, "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return BROKEN, f"no answer in {TIMEOUT_S} s"
    try:
        answer = json.loads(done.stdout)
        answer = answer if isinstance(answer, dict) else {}
    except ValueError:
        answer = {}
    refused, against = answer.get("refused"), answer.get("against")
    if done.returncode == 0 and isinstance(against, dict) and against.get("holds") is True:
        return RIGHT, ""
    if done.returncode == 1 and isinstance(against, dict) and against.get("holds") is False:
        return WRONG, json.dumps({key: value for key, value in against.items() if key != "holds"})
    if done.returncode == 2 and isinstance(refused, dict):
        return REFUSED, " ".join(str(refused.get("why", "")).split())
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return BROKEN, f"exit status {done.returncode}: {said[-1][:200] if said else 'says nothing'}"


def cell(results):
    """What one engine made of some cases, as (text, kinds); rows with equal kinds are one."""
    found, reasons = collections.Counter(), collections.OrderedDict()
    for about, (kind, why) in results:
        if kind == REFUSED and not about["rows"]:
            found["mixing"] += 1
        else:
            found[kind] += 1
        if kind == REFUSED and about["rows"]:
            reasons.setdefault(PARTICULAR.sub("#", why), why)
    parts = []
    for kind in (RIGHT, WRONG, BROKEN):
        if found[kind]:
            parts.append(f"**{found[kind]} {kind}**" if kind != RIGHT else f"{found[kind]} right")
    if found[REFUSED]:
        why = "; ".join(shortened(reason) for reason in list(reasons.values())[:2])
        more = f"; and {len(reasons) - 2} other reasons" if len(reasons) > 2 else ""
        parts.append(f"{found[REFUSED]} refused: {why}{more}")
    if found["mixing"]:
        parts.append(f"{found['mixing']} refused that mix requests")
    kinds = frozenset(kind for kind in found if kind != "mixing" or len(found) == 1) | frozenset(reasons)
    return ", ".join(parts), kinds


def shortened(text):
    text = text.replace("|", "\\|")
    return text if len(text) <= REASON else text[:REASON].rsplit(" ", 1)[0] + " …"


def table_rows(results, engines):
    """(operator, first opset, last opset, cells); results: {(engine, case): (about, verdict)}."""
    spans = collections.defaultdict(lambda: collections.defaultdict(list))
    for (engine, _), (about, outcome) in sorted(results.items()):
        spans[(about["operator"], about["since"], about["until"])][engine].append((about, outcome))
    merged = []
    for (operator, first, last), found in sorted(spans.items()):
        kinds = [cell(found[engine])[1] for engine in engines]
        if merged and merged[-1][0] == operator and merged[-1][2] + 1 == first and merged[-1][3] == kinds:
            previous = merged[-1]
            previous[2] = last
            for engine in engines:
                previous[4][engine] += found[engine]
        else:
            merged.append([operator, first, last, kinds, found])
    for operator, first, last, _, found in merged:
        yield operator, first, last, [cell(found[engine])[0] for engine in engines]


def totals(results, engines):
    yield "| engine | cases | right | refused | refused that mix requests | wrong | broken |"
    yield "|---|---|---|---|---|---|---|"
    for engine in engines:
        outcomes = [(about["rows"], kind) for (e, _), (about, (kind, _)) in results.items() if e == engine]
        count = collections.Counter("mixing" if kind == REFUSED and not by_row else kind for by_row, kind in outcomes)
        yield f"| {engine} | {len(outcomes)} | {count[RIGHT]} | {count[REFUSED]} | {count['mixing']} | {count[WRONG]} | {count[BROKEN]} |"


def page(cases, results, engines):
    sources = collections.Counter(about["source"] for about in cases)
    operators = len({about["operator"] for about in cases})
    lines = [
        "# Operators", "",
        "What `graft model check` says of small networks of one operator each, by operator and opset. Made by",
        "`models/tools/operators.sh`; don't edit it.", "",
        f"{len(cases)} cases of {operators} operators, opsets {OLDEST} to {NEWEST}: {sources[STANDARD]} are the ONNX standard's own tests,",
        f"{sources[RUNTIME]} are networks whose outputs ONNX Runtime's CPU provider computed. *Right* means the same output,",
        "*refused* that Graft says before it serves the network that it won't. A network that mixes requests, where a row of",
        "the output doesn't belong to one row of the input, is to be refused: a batch would give it other rows.", "",
        *totals(results, engines), "",
        "| operator | opsets | " + " | ".join(engines) + " |", "|---|---|" + "---|" * len(engines)]
    for operator, first, last, cells in table_rows(results, engines):
        opsets = str(first) if first == last else f"{first}–{last}"
        lines.append(f"| {operator} | {opsets} | " + " | ".join(cells) + " |")
    return lines


def write_table(arguments):
    cases, engines = read_cases(arguments.folder), arguments.engine or ["rten"]
    graft = shutil.which(arguments.graft)
    if not graft:
        sys.exit(f"{arguments.graft} is no program: build it with `cargo build --release`")
    work = [(engine, about) for engine in engines for about in cases]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = pool.map(lambda job: verdict(graft, job[0], arguments.folder / job[1]["case"]), work)
        results = {(engine, about["case"]): (about, outcome) for (engine, about), outcome in zip(work, outcomes)}
    lines = page(cases, results, engines)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")
    if len(lines) > 400:
        print(f"{arguments.out} has {len(lines)} lines: too many to read", file=sys.stderr)
    bad = [(engine, case, *outcome) for (engine, case), (_, outcome) in sorted(results.items()) if outcome[0] in (WRONG, BROKEN)]
    for engine, case, kind, why in bad:
        print(f"{kind} with {engine}: {case}: {why}", file=sys.stderr)
    for (engine, case), (about, outcome) in sorted(results.items()):
        if outcome[0] == RIGHT and not about["rows"]:
            print(f"look at this: {engine} serves {case}, which seems to mix requests", file=sys.stderr)
    print("\n".join(totals(results, engines)))
    sys.exit(1 if bad else 0)


# ---------------------------------------------------------------- the small form

MOST_OF_AN_OPERATOR, LARGEST_CASE, DEAR = 6, 20_000, 1_000
FILES = ("model.onnx", "test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb", "case.json")


def picked(folder, cases):
    """(Cases to take, those that matter most first; how many of them cover every operator and version)."""
    groups, costs, seen, chosen = collections.defaultdict(list), {}, collections.defaultdict(list), []
    for about in cases:
        contents = [(folder / about["case"] / file).read_bytes() for file in FILES]
        if sum(map(len, contents)) < LARGEST_CASE:
            groups[(about["operator"], about["since"])].append(about)
            # An entry's name stands in the archive twice, with 76 bytes around it.
            costs[about["case"]] = sum(len(zlib.compress(c, 9)) + 76 + 2 * (len(about["case"]) + 13) for c in contents)

    def preference(operator, about):
        """Networks that are to be served first, then cheap ones; then variants and sources that this operator hasn't had."""
        before = seen[operator]
        return (not about["rows"], costs[about["case"]] > DEAR, variant(about) in map(variant, before),
                [b["source"] for b in before].count(about["source"]), scattered(about))

    # Operators of many variants have most to get wrong.
    order = sorted(groups, key=lambda key: (-len(groups[key]), key))
    for turn in range(MOST_OF_AN_OPERATOR):
        for operator, since in order:
            free = [about for about in groups[(operator, since)] if about not in seen[operator] and (turn == 0 or about["rows"])]
            if free and (turn == 0 or len(seen[operator]) < MOST_OF_AN_OPERATOR):
                best = min(free, key=lambda about: preference(operator, about))
                seen[operator].append(best)
                chosen.append(best)
    return chosen, len(groups)


def variant(about):
    return re.sub(r"_at\d+$", "", about["case"]) if about["source"] == STANDARD else about["case"].split("_", 2)[2]


def scattered(about):
    """A fixed order that has nothing to do with the alphabet."""
    return zlib.crc32(variant(about).encode())


def write_small(arguments):
    cases = read_cases(arguments.folder)
    chosen, covering = picked(arguments.folder, cases)
    size = write_zip(arguments.folder, chosen, arguments.out)
    while size > arguments.limit_bytes and len(chosen) > covering:
        # About as many fewer as the file is too large by.
        fewer = min(len(chosen) - 1, int(len(chosen) * arguments.limit_bytes / size))
        chosen = chosen[:max(covering, fewer)]
        size = write_zip(arguments.folder, chosen, arguments.out)
    operators = {about["operator"] for about in chosen}
    print(f"{len(chosen)} cases of {len(operators)} operators in {covering} versions, {size} bytes")
    if size > arguments.limit_bytes:
        sys.exit(f"{arguments.out} has {size} bytes, over {arguments.limit_bytes}: one case of each version is too much")


def write_zip(folder, chosen, out):
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for about in sorted(chosen, key=lambda a: a["case"]):
            for file in sorted(FILES, key=lambda f: f.rsplit("/", 1)[-1]):
                entry = zipfile.ZipInfo(f"{about['case']}/{file.rsplit('/', 1)[-1]}", (1980, 1, 1, 0, 0, 0))
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                entry.create_system = 3
                archive.writestr(entry, (folder / about["case"] / file).read_bytes(), compresslevel=9)
    return out.stat().st_size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("cases", help="write the cases; what DIR held before is deleted")
    command.add_argument("folder", type=pathlib.Path, metavar="DIR")
    command.add_argument("--only", default="*", metavar="PATTERN", help="cases whose names fit, such as 'Conv_*'")
    command.add_argument("--verbose", action="store_true", help="name every case that is dropped")
    command.set_defaults(function=write_cases)
    command = commands.add_parser("table", help="run Graft on the cases; exit status 1 if any is wrong or broken")
    command.add_argument("folder", type=pathlib.Path, metavar="DIR")
    command.add_argument("--graft", required=True, help="the program")
    command.add_argument("--engine", action="append", metavar="NAME", help="may be given several times (default: rten)")
    command.add_argument("--out", required=True, type=pathlib.Path, metavar="FILE")
    command.set_defaults(function=write_table)
    command = commands.add_parser("small", help="pick few cases that cover every operator at every opset")
    command.add_argument("folder", type=pathlib.Path, metavar="DIR")
    command.add_argument("out", type=pathlib.Path, metavar="OUT.zip")
    command.add_argument("--limit-bytes", type=int, default=400_000, metavar="N")
    command.set_defaults(function=write_small)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
