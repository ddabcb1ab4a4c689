#!/usr/bin/env python3
"""Hold what `graft model split` writes against the whole: every head and tail must pass onnx.checker, and run one after
the other in ONNX Runtime they must give what the file gives by itself."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnxruntime

# Floats may differ by this part of the largest magnitude: kernels differ where a fusion is cut.
RELATIVE = 1e-4


def session(file):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def example(value, generator):
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in value.shape]
    if value.type in ("tensor(float)", "tensor(float16)", "tensor(double)"):
        kinds = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
        return generator.uniform(-1, 1, shape).astype(kinds[value.type])
    kinds = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(bool)": "bool"}
    return generator.integers(0, 2, shape).astype(kinds[value.type])


def check(graft, model, points, folder):
    listed = json.loads(subprocess.run([graft, "model", "split", model, "--all", "--json"], capture_output=True, text=True, check=True).stdout)
    inner = listed["cut_points"][1:-1]
    step = max(1, len(inner) // points) if points else 1
    whole = session(model)
    given = example(whole.get_inputs()[0], numpy.random.default_rng(7))
    worst = 0.0
    output = None
    for point in inner[::step]:
        head, tail = folder / "head.onnx", folder / "tail.onnx"
        subprocess.run([graft, "model", "split", model, "--at", str(point["index"]), "--head", head, "--tail", tail], capture_output=True, text=True, check=True)
        for part in (head, tail):
            onnx.checker.check_model(str(part), full_check=True)
        first, second = session(head), session(tail)
        middle = first.run(None, {first.get_inputs()[0].name: given})[0]
        assert middle.nbytes == point["sent_bytes"], (middle.nbytes, point)
        answer = second.run(None, {second.get_inputs()[0].name: middle})[0]
        name = second.get_outputs()[0].name
        if output is None:
            names = [value.name for value in whole.get_outputs()]
            output = whole.run([name if name in names else names[0]], {whole.get_inputs()[0].name: given})[0]
        top = max(float(numpy.abs(output.astype("float64")).max()), 1e-30)
        difference = float(numpy.abs(answer.astype("float64") - output.astype("float64")).max()) / top
        if not difference <= RELATIVE:
            sys.exit(f"{model}: cut point {point['index']}: head and tail differ from the whole by {difference:.2e} of its largest element")
        worst = max(worst, difference)
    print(f"{model}: {len(inner[::step])} of {len(inner)} inner cut points, worst difference {worst:.1e}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="ONNX files")
    parser.add_argument("--graft", required=True, help="the program")
    parser.add_argument("--points", type=int, default=8, help="cut points of each file that are tried; 0: all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            check(arguments.graft, model, arguments.points, pathlib.Path(folder))


if __name__ == "__main__":
    main()
