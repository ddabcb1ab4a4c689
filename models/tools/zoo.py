#!/usr/bin/env python3
"""Write a zoo of larger networks as ONNX files, with random weights from a fixed seed.

The weights are not trained: the zoo is for trying Graft on the graphs of real architectures.
Run it with `zoo.sh`, which installs what it needs into a folder of its own.
"""
import argparse
import pathlib

import torch
import torchvision

NETWORKS = {
    "resnet50": (torchvision.models.resnet50, 224),
    "resnet101": (torchvision.models.resnet101, 224),
    "inception_v3": (lambda: torchvision.models.inception_v3(init_weights=True, aux_logits=True), 299),
    "densenet121": (torchvision.models.densenet121, 224),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, 224),
    "vgg16": (torchvision.models.vgg16, 224),
    "vit_b_16": (torchvision.models.vit_b_16, 224),
}

MANIFEST = """\
name = "{name}"
file = "{name}.onnx"
license = "BSD-3-Clause"

[input.image]
resize = {resize}
crop = {crop}
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path, help="folder to write to")
    parser.add_argument("--only", nargs="*", choices=NETWORKS, help="these networks only")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--baked", action="store_true", help="bake a batch of one into the shapes")
    arguments = parser.parse_args()
    for name in arguments.only or NETWORKS:
        make, size = NETWORKS[name]
        torch.manual_seed(7)
        network = make().eval()
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.onnx"
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, size, size),),
            str(file),
            input_names=["image"],
            output_names=["logits"],
            opset_version=arguments.opset,
            dynamic_axes=None if arguments.baked else {"image": {0: "batch"}, "logits": {0: "batch"}},
            dynamo=False,
        )
        (folder / "model.toml").write_text(
            MANIFEST.format(name=name, crop=size, resize=size * 8 // 7)
        )
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
