#!/usr/bin/env bash
# Tests libgraft_sdk in Python, C and Kotlin against router, planner and worker: run.sh [FOLDER]
# Needs python3 with venv, and a C compiler; Kotlin needs a Java runtime and JNA, which are installed where this is Debian and may be
# done, and is left out where they are missing. FOLDER: where else what it installs goes; default: target/bindings.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
folder=${1:-$root/target/bindings}
cd "$root"
bindings=client-sdk/bindings
$bindings/generate.sh --check
cargo build --quiet --locked --package graft --bins
if [ ! -e /usr/share/java/jna.jar ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    packages="libjna-java"
    command -v java >/dev/null || packages="$packages default-jre-headless"
    # shellcheck disable=SC2086
    apt-get install -qq -y $packages >/dev/null || { apt-get update -qq && apt-get install -qq -y $packages >/dev/null; } ||
        echo "Kotlin is left out: $packages can't be installed" >&2
fi
built=$(realpath "${CARGO_TARGET_DIR:-target}")/debug
if [ ! -x "$folder/bin/python" ]; then
    python3 -m venv "$folder"
fi
"$folder/bin/python" -m pip install --quiet 'pytest==8.*' numpy onnxruntime==1.32.0
mkdir -p "$folder/package"
cp -R "$bindings/python/graft" "$folder/package/"
cp "$built/libgraft_sdk.so" "$folder/package/graft/"
export GRAFT_BIN=$built GRAFT_LIBRARY=$built/libgraft_sdk.so GRAFT_TOOLS=$folder PYTHONPATH=$folder/package
exec "$folder/bin/python" -m pytest -q -p no:cacheprovider "$bindings/tests"
