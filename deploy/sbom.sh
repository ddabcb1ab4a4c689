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
for crate in cli router planner worker; do
    name="graft${crate:+-$crate}"
    [ "$crate" = cli ] && name=graft
    PATH="$tools/bin:$PATH" cargo cyclonedx --quiet --format json --spec-version 1.5 \
        --manifest-path "$crate/Cargo.toml" --override-filename "$name.cdx"
    find . -name "$name.cdx.json" -not -path "./target/*" -exec mv {} "$out/$name.cdx.json" \;
    find . -name '*.cdx.json' -not -path "./target/*" -delete
    echo "wrote $out/$name.cdx.json"
done
