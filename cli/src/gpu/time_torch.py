"""Times networks of torchvision in 16-bit floats, channels last: as they are, compiled, and captured as a CUDA graph; on the whole device.

Arguments: the device (cuda:0), then names of networks. Prints one JSON object: {"torch": VERSION, "figures": [{"network", "batch", "mode",
"ms"}], "missing": [{"network", "mode", "why"}]}. A figure is the median of its runs, by the device's own events where it has some. Weights
are random: they don't change what a run takes.
"""

import json
import statistics
import sys
import time

import torch
import torchvision

BATCHES = (1, 2, 4, 8, 16, 32)
WARM_UPS = 5
RUNS = 21
SIZES = {"inception_v3": 299}


def timed(run, on_gpu):
    """Milliseconds of a run, the median."""
    for _ in range(WARM_UPS):
        run()
    times = []
    for _ in range(RUNS):
        if on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def captured(network, pictures):
    """The network as one CUDA graph, ready to be replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            network(pictures)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(pictures)
    return graph.replay


def main(device, names):
    on_gpu = device.startswith("cuda")
    kind = torch.float16 if on_gpu else torch.float32
    torch.backends.cudnn.benchmark = True
    figures, missing = [], []
    for name in names:
        try:
            network = torchvision.models.get_model(name, weights=None)
        except ValueError as error:
            missing.append({"network": name, "mode": "all", "why": str(error)})
            continue
        network = network.eval().to(device, kind, memory_format=torch.channels_last)
        size = SIZES.get(name, 224)
        modes = {"eager": lambda x: lambda: network(x)}
        if on_gpu:
            modes["graph"] = lambda x: captured(network, x)
            compiled = torch.compile(network, mode="max-autotune")
            modes["compiled"] = lambda x: lambda: compiled(x)
        for mode, make in modes.items():
            try:
                with torch.inference_mode():
                    for batch in BATCHES if on_gpu else BATCHES[:1]:
                        pictures = torch.randn(batch, 3, size, size, device=device, dtype=kind)
                        pictures = pictures.contiguous(memory_format=torch.channels_last)
                        ms = timed(make(pictures), on_gpu)
                        figures.append({"network": name, "batch": batch, "mode": mode, "ms": ms})
            except Exception as error:  # a mode that a network or a host lacks is told, and the others go on
                missing.append({"network": name, "mode": mode, "why": f"{type(error).__name__}: {error}"[:300]})
    print(json.dumps({"torch": torch.__version__, "figures": figures, "missing": missing}))


main(sys.argv[1], sys.argv[2:])
