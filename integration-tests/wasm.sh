#!/usr/bin/env bash
# Builds the crates that decide, and the values that they share, for a target that has no files, sockets, clocks or threads.
# Needs the target: rustup target add wasm32-unknown-unknown
set -euo pipefail
cd "$(dirname "$0")/.."
cores=(
    graft-features graft-model graft-plan graft-wire
    graft-worker-core graft-router-core graft-client-core
    graft-certify graft-planner-search graft-planner-steer graft-simulator
)
exec cargo build --locked --target wasm32-unknown-unknown "${cores[@]/#/--package=}"
