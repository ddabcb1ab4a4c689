"""Networks of operators that are layers: convolution, pooling, normalization, softmax, products of matrices, resizing.

And their forms on integers: quantization, and products of what is quantized.
"""
import numpy as np

from networks import F16, F32, I32, I64, I8, INF, U8, X, Net, f32, ints, writes


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
