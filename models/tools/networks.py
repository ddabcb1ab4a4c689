"""What the networks of the cases are made of: nodes, models, the versions of operators, and numbers.

The functions that write networks by hand, one or a few operators each, stand in written_*.py and are entered in WRITTEN.
"""
import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OLDEST, NEWEST = 9, 21
F16, F32, I8, U8, I32, I64 = np.float16, np.float32, np.int8, np.uint8, np.int32, np.int64
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


# ---------------------------------------------------------------- what networks are written with

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
