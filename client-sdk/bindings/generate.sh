#!/usr/bin/env bash
# Writes the sources that Kotlin, Swift, Python and C need of libgraft_sdk: generate.sh [--check]
# --check: fails if they are not as they would be written.
set -euo pipefail
cd "$(dirname "$0")/../.."
bindings=client-sdk/bindings
cargo build --quiet --locked --package graft-bindings --package graft-bindings-generate
built=${CARGO_TARGET_DIR:-target}/debug
case $(uname) in
    Darwin) library=$built/libgraft_sdk.dylib ;;
    *) library=$built/libgraft_sdk.so ;;
esac
out=$bindings
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
"$built/graft-bindings-generate" "$library" "$bindings" "$out" >/dev/null
if [ "${1:-}" = --check ]; then
    (cd "$out" && find . -type f) | while read -r file; do
        if ! diff -q "$out/$file" "$bindings/$file" >/dev/null; then
            echo "$bindings/${file#./} is not as it would be written: run $bindings/generate.sh" >&2
            exit 1
        fi
    done
fi
