#!/usr/bin/env bash
# Makes a zoo of larger networks (random weights, fixed seed): zoo.sh OUT [zoo.py's options]
# Needs python3 with venv and about 8 GB of disk for PyTorch, which it installs into OUT/.venv.
set -euo pipefail
out=${1:?usage: zoo.sh OUT [--only NAME...] [--opset N] [--baked]}
shift
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
if [ ! -x "$out/.venv/bin/python" ]; then
    python3 -m venv "$out/.venv"
    "$out/.venv/bin/pip" install --quiet torch torchvision onnx
fi
"$out/.venv/bin/python" "$here/zoo.py" "$out" "$@"
