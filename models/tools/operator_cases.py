"""What `operators.py cases` does: cases from the ONNX standard's own node tests and from the networks of written_cases.py.

A test or a network becomes a case, and is written to its folder, if ONNX's checker accepts it and ONNX Runtime agrees to it.
What doesn't is Dropped, and counted by its reason.
"""
import collections
import copy
import fnmatch
import json
import re
import shutil
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from networks import F32, NEWEST, X, model_of, schema, versions
from written_cases import written

STANDARD, RUNTIME = "onnx node test", "onnxruntime"
# What an input or an output may hold; constants may hold anything.
SERVED = {"float32", "float16", "int32", "int64", "int8", "uint8", "bool"}


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


# ---------------------------------------------------------------- the cases

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
