#!/usr/bin/env bash
# Packs libgraft_sdk for a target: package.sh [TARGET] [OUT]
# TARGET: a target of Rust's; default: this machine's. OUT: a folder; default: target/packages.
#
#   C        graft-c-TARGET.tar.gz: header, libraries, pkg-config
#   Python   graft_sdk-VERSION-py3-none-PLATFORM.whl (needs python3 with venv; for this machine's target)
#   Kotlin   kotlin/: a Gradle project of an AAR, with jniLibs of each Android target that was packed so far
#   Swift    swift/: a package; with an XCFramework of each Apple target that was packed so far, where there is xcodebuild
#
# Another target needs `rustup target add TARGET` and its C compiler and linker; for Android those of the NDK, for which ANDROID_NDK_HOME
# is set; for Apple's a Mac with Xcode.
set -euo pipefail
cd "$(dirname "$0")/../.."
bindings=$PWD/client-sdk/bindings
host=$(rustc -vV | sed -n 's/^host: //p')
target=${1:-$host}
out=${2:-$PWD/target/packages}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# Most bytes of the library for x86_64, with one engine.
most=8000000

abi=
case $target in
    aarch64-linux-android) abi=arm64-v8a ;;
    armv7-linux-androideabi) abi=armeabi-v7a ;;
    x86_64-linux-android) abi=x86_64 ;;
    i686-linux-android) abi=x86 ;;
esac
if [ -n "$abi" ]; then
    : "${ANDROID_NDK_HOME:?set it to the NDK of Android}"
    tools=$(echo "$ANDROID_NDK_HOME"/toolchains/llvm/prebuilt/*/bin)
    clang=$tools/${target/armv7-linux/armv7a-linux}26-clang
    name=${target//-/_}
    export "CC_$name=$clang" "AR_$name=$tools/llvm-ar" "CARGO_TARGET_${name^^}_LINKER=$clang"
    # Pages of 16 KiB, which Android asks for since version 15.
    export "CARGO_TARGET_${name^^}_RUSTFLAGS=-Clink-arg=-Wl,-z,max-page-size=16384"
fi

"$bindings/generate.sh" --check
echo "building for $target"
cargo build --quiet --locked --profile sdk --target "$target" --package graft-bindings
built=${CARGO_TARGET_DIR:-target}/$target/sdk
library=
for file in "$built"/libgraft_sdk.so "$built"/libgraft_sdk.dylib "$built"/graft_sdk.dll; do
    if [ -f "$file" ]; then library=$file; fi
done
bytes=$(wc -c <"${library:-$built/libgraft_sdk.a}")
echo "$(basename "${library:-libgraft_sdk.a}"): $bytes bytes"
case $target in
    x86_64-unknown-linux-gnu)
        if [ "$bytes" -gt "$most" ]; then
            echo "the library has grown: it may have $most bytes" >&2
            exit 1
        fi
        ;;
esac
mkdir -p "$out"

c=$out/graft-c-$target
rm -rf "$c"
mkdir -p "$c/include" "$c/lib/pkgconfig"
cp "$bindings/c/include/graft.h" "$c/include/"
cp ${library:+"$library"} "$built/libgraft_sdk.a" "$c/lib/"
sed "s/@VERSION@/$version/" "$bindings/c/graft.pc.in" >"$c/lib/pkgconfig/graft.pc"
cp LICENSE-APACHE LICENSE-MIT "$c/"
tar -czf "$c.tar.gz" -C "$out" "graft-c-$target"
echo "C: $c.tar.gz"

mkdir -p "$out/kotlin" "$out/swift"
cp -R "$bindings/kotlin/." "$out/kotlin/"
cp -R "$bindings/swift/." "$out/swift/"
if [ -n "$abi" ]; then
    mkdir -p "$out/kotlin/src/main/jniLibs/$abi"
    cp "$library" "$out/kotlin/src/main/jniLibs/$abi/"
fi
echo "Kotlin: $out/kotlin ($(find "$out/kotlin" -name libgraft_sdk.so | wc -l) ABIs)"

case $target in
    *-apple-*)
        mkdir -p "$out/swift/parts/$target"
        cp "$built/libgraft_sdk.a" "$out/swift/parts/$target/"
        if command -v xcodebuild >/dev/null; then
            parts=()
            for part in "$out"/swift/parts/*/; do
                parts+=(-library "$part/libgraft_sdk.a" -headers "$bindings/swift/Sources/GraftFFI/include")
            done
            rm -rf "$out/swift/GraftFFI.xcframework"
            xcodebuild -create-xcframework "${parts[@]}" -output "$out/swift/GraftFFI.xcframework" >/dev/null
        fi
        ;;
esac
echo "Swift: $out/swift"

if [ "$target" = "$host" ] && python3 -c 'import venv' 2>/dev/null; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cp -R "$bindings/python" "$work/python"
    cp "$library" "$work/python/graft/"
    python3 -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet wheel
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/made" "$work/python"
    platform=$("$python" -c 'import sysconfig; print(sysconfig.get_platform().replace("-", "_").replace(".", "_"))')
    # Any version of Python 3 loads the library: it is no extension module.
    "$python" -m wheel tags --remove --platform-tag "$platform" "$work"/made/*.whl >/dev/null
    cp "$work"/made/*.whl "$out/"
    echo "Python: $(ls "$out"/graft_sdk-*-py3-none-"$platform".whl)"
fi
