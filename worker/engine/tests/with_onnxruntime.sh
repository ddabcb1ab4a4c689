#!/usr/bin/env bash
# Runs the tests of engines with onnxruntime, which it installs into FOLDER: with_onnxruntime.sh [FOLDER]
# Needs python3 with venv; default folder: target/onnxruntime.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
folder=${1:-$root/target/onnxruntime}
if [ ! -x "$folder/bin/python" ]; then
    python3 -m venv "$folder"
fi
"$folder/bin/python" -m pip install --quiet --no-deps onnxruntime==1.32.0
ORT_DYLIB_PATH=$(echo "$folder"/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*)
export ORT_DYLIB_PATH ORT_DISABLE_TELEMETRY=1 GRAFT_TEST_ONNXRUNTIME=1
cd "$root"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --package graft-engine --test onnxruntime --test operators
else
    cargo test --locked --package graft-engine --test onnxruntime --test operators
fi
