#!/usr/bin/env bash
# Makes docs/operators.md, what Graft does with every ONNX operator, and worker/engine/tests/operators.zip, the small
# form that tests hold Graft against: operators.sh [FOLDER]
# Python packages and cases go to FOLDER, or to a temporary one.
# Needs python3 with venv, about 500 MB of disk, and a graft in target/release, which it builds if there is none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
python=$folder/venv/bin/python
if [ ! -x "$python" ]; then
    python3 -m venv "$folder/venv"
fi
"$python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy
"$python" "$here/operators.py" cases "$folder/cases"
"$python" "$here/operators.py" small "$folder/cases" "$root/worker/engine/tests/operators.zip"
graft=$root/target/release/graft
if [ ! -x "$graft" ]; then
    cargo build --release --manifest-path "$root/Cargo.toml" --bin graft
fi
ORT_DYLIB_PATH=$(echo "$folder"/venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*)
export ORT_DYLIB_PATH
"$python" "$here/operators.py" table "$folder/cases" --graft "$graft" --out "$root/docs/operators.md"
