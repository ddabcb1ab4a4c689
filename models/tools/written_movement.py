"""Networks of operators that move numbers: they cut, join, pad, repeat, reorder and index; and arithmetic on shapes."""
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from networks import F16, F32, I32, I64, INF, NAN, X, Net, f32, ints, writes


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
