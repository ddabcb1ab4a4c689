#!/usr/bin/env bash
# Writes a software bill of materials (CycloneDX 1.5, JSON) for each program: the crates that it is built from, their versions, licences
# and checksums. Usage: deploy/sbom.sh [FOLDER], default target/sbom. Installs cargo-cyclonedx into target/tools the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
out="$(mkdir -p "${1:-target/sbom}" && cd "${1:-target/sbom}" && pwd)"
tools="$PWD/target/tools"
if [ ! -x "$tools/bin/cargo-cyclonedx" ]; then
    cargo install --quiet --locked --root "$tools" cargo-cyclonedx
fi
# It writes a file beside each crate of the workspace; those of the programs are kept.
PATH="$tools/bin:$PATH" cargo cyclonedx --quiet --format json --spec-version 1.5
for crate in cli router planner worker; do
    name="graft-$crate"
    [ "$crate" = cli ] && name=graft
    mv "$crate/$name.cdx.json" "$out/"
    echo "wrote $out/$name.cdx.json"
done
find . -name '*.cdx.json' -not -path './target/*' -delete
