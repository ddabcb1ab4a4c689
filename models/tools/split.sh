#!/usr/bin/env bash
# Holds heads and tails that `graft model split` writes against the whole, by onnx.checker and ONNX Runtime:
# split.sh FOLDER MODEL.onnx... [--points N]
# Needs python3 with venv and about 500 MB of disk for packages, which it installs into FOLDER/venv, and a graft in
# target/release, which it builds if there is none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=${1:?usage: split.sh FOLDER MODEL.onnx... [--points N]}
shift
mkdir -p "$folder"
python=$folder/venv/bin/python
if [ ! -x "$python" ]; then
    python3 -m venv "$folder/venv"
fi
"$python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy
graft=$root/target/release/graft
if [ ! -x "$graft" ]; then
    cargo build --release --manifest-path "$root/Cargo.toml" --bin graft
fi
"$python" "$here/split.py" --graft "$graft" "$@"
