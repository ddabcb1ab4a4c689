"""Graft in an app: run the first layers of a network here, the rest at the server, and all of them here when the server can't have it in time.

    import asyncio, graft

    async def main():
        client = graft.Client(graft.ClientOptions(routers=["serve.example:4433"], authority_pem=open("ca.pem", "rb").read()))
        model = await graft.open_model(client, "models/efficientnet-lite0", slo_ms=300)
        answer = await model.infer(graft.picture(open("cat.jpg", "rb").read()))
        print(answer.label, answer.local, answer.times.total_ms)

    asyncio.run(main())
"""

import atexit
import ctypes
import os

from ._sdk import (
    Answer,
    Bytes,
    Client,
    ClientOptions,
    ElementType,
    GraftError,
    Input,
    LayerError,
    LayerRunner,
    Layers,
    Local,
    Model,
    ModelOptions,
    ModelSource,
    PixelFormat,
    Pixels,
    Prefer,
    ProgressListener,
    TensorInfo,
    TensorValue,
    Times,
    settle,
)

__all__ = [
    "Answer", "Bytes", "Client", "ClientOptions", "ElementType", "GraftError", "Input", "LayerError", "LayerRunner", "Layers", "Local", "Model", "ModelOptions",
    "ModelSource", "PixelFormat", "Pixels", "Prefer", "ProgressListener", "TensorInfo", "TensorValue", "Times",
    "array", "memory", "open_model", "open_on", "picture", "pixels", "tensors",
]

_NUMPY = {
    ElementType.F32: "<f4", ElementType.F16: "<f2", ElementType.I32: "<i4", ElementType.I64: "<i8",
    ElementType.I8: "<i1", ElementType.U8: "<u1", ElementType.BOOL: "?", ElementType.F64: "<f8",
}


# A thread of the library that is in a callback while the interpreter ends would end the process.
atexit.register(settle)


class _Progress(ProgressListener):
    def __init__(self, call):
        self._call = call

    def on_progress(self, done, all):
        self._call(done, all)


async def open_model(client, source, progress=None, **options):
    """Opens a model: a path, or a ModelSource. `progress(done, all)` hears how far measuring is, on another thread; options are those
    of ModelOptions."""
    if not isinstance(source, ModelSource):
        source = ModelSource.PATH(path=os.fspath(source))
    listener = None if progress is None else _Progress(progress)
    return await client.open(source, ModelOptions(**options), listener)


def memory(data):
    """Bytes of anything with the buffer protocol. What can be written to is not copied: it must stay as it is until the call that
    takes it has returned."""
    view = memoryview(data)
    if not view.c_contiguous:
        raise ValueError("the elements do not follow one another in memory")
    if view.readonly or view.nbytes == 0:
        return Bytes.HELD(bytes=view.tobytes())
    return Bytes.MEMORY(address=ctypes.addressof(ctypes.c_char.from_buffer(view)), length=view.nbytes)


def picture(data):
    """A PNG or JPEG, to run a model on."""
    return Input.encoded(memory(data))


def pixels(data, width, height, format=PixelFormat.RGB, stride=0):
    """A picture that is not encoded, to run a model on."""
    return Input.pixels(Pixels(bytes=memory(data), width=width, height=height, stride=stride, format=format))


def tensors(model, *arrays):
    """Arrays for a model's inputs, in its order and of its types; NumPy's or anything with the buffer protocol."""
    return model.tensors([memory(array) for array in arrays])


async def open_on(client, runner, source, progress=None, **options):
    """Opens a model whose layers the app runs: `runner` is a LayerRunner."""
    if not isinstance(source, ModelSource):
        source = ModelSource.PATH(path=os.fspath(source))
    listener = None if progress is None else _Progress(progress)
    return await client.open_on(runner, source, ModelOptions(**options), listener)


def array(tensor):
    """A tensor of an answer as an array of NumPy's, which is not copied."""
    import numpy

    return numpy.frombuffer(tensor.data, dtype=_NUMPY[tensor.element_type]).reshape(tensor.shape)
