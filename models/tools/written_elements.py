"""Networks of operators that take numbers one by one, or make one of several.

Functions of one number, arithmetic, comparison, logic, casts, and reductions.
"""
import numpy as np
from onnx import helper

from networks import F16, F32, I32, I64, I8, INF, NAN, U8, X, Net, f32, ints, writes

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
