"""Compiles the kernels: see build.sh, which brings the compiler."""

import gzip
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).parent
OUT = HERE / "kernels.ptx.gz"
FLAGS = ["-std=c++17", "-lineinfo"]
# Oldest devices that the kernels run on; PTX for them is compiled by the driver for all later ones.
ARCHITECTURE = "80"
# Devices for which registers and spills are looked at.
LOOKED_AT = ["80", "90"]


def sources():
    return sorted(HERE.glob("*.cu")) + sorted(HERE.glob("*.cuh"))


def source_hash():
    """SHA-256 over names and contents of all sources, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(sources(), key=lambda p: p.name):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def stripped(ptx):
    """The text without comments and debugging sections; lines name file and line only."""
    ptx = re.sub(r'(\.file\s+\d+) "[^"]*/([^"/]+)"', r'\1 "\2"', ptx)
    ptx = re.sub(r"//[^\n]*", "", ptx)
    ptx = re.sub(r"\.section\s+\.debug\w*\s*\{.*?\n\s*\}", "", ptx, flags=re.S)
    ptx = re.sub(r"(\.loc\s+\d+ \d+ \d+),[^\n]*", r"\1", ptx)
    lines = (line.strip() for line in ptx.splitlines())
    kept = []
    for line in lines:
        if not line:
            continue
        if line.startswith(".loc") and kept and kept[-1].startswith(".loc"):
            kept[-1] = line
        else:
            kept.append(line)
    return "\n".join(kept) + "\n"


def compile_one(source, folder):
    ptx = folder / f"{source.stem}.ptx"
    subprocess.run(["nvcc", *FLAGS, f"-arch=compute_{ARCHITECTURE}", "-ptx", source.name, "-o", ptx], check=True, cwd=HERE)
    text = stripped(ptx.read_text())
    ptx.write_text(text)
    reports = []
    for architecture in LOOKED_AT:
        # -v tells registers and spills; assembling the stripped text shows that it still is PTX.
        out = subprocess.run(
            ["ptxas", "-v", f"-arch=sm_{architecture}", ptx, "-o", folder / "out.cubin"],
            capture_output=True, text=True,
        )
        if out.returncode:
            sys.exit(f"ptxas does not take {source.stem}: {out.stderr[:2000]}")
        reports.append((architecture, out.stderr))
    return text, reports


def main():
    check = sys.argv[1:] == ["--check"]
    spills = 0
    texts = {}
    with tempfile.TemporaryDirectory() as folder:
        kernels = [s for s in sources() if s.suffix == ".cu"]
        folders = [pathlib.Path(folder) / s.stem for s in kernels]
        for f in folders:
            f.mkdir()
        with ThreadPoolExecutor(2) as pool:
            for source, (text, reports) in zip(kernels, pool.map(compile_one, kernels, folders)):
                texts[source.stem] = text
                for architecture, report in reports:
                    for name, rest in re.findall(r"entry function '(\w+)'(.*?Used[^\n]*)", report, flags=re.S):
                        spilled = int(re.search(r"(\d+) bytes spill stores", rest).group(1))
                        registers = re.search(r"Used (\d+) registers", rest).group(1)
                        spills += spilled
                        print(f"sm_{architecture} {name}: {registers} registers, {spilled} bytes spilled")
    parts = [f"// graft kernels {source_hash()}\n"]
    for name, text in sorted(texts.items()):
        parts.append(f"// module {name}\n{text}")
    content = "".join(parts).encode()
    if spills:
        sys.exit(f"{spills} bytes of registers are spilled")
    if check:
        if gzip.decompress(OUT.read_bytes()) != content:
            sys.exit(f"{OUT.name} is not what its sources compile to: run worker/cuda/kernels/build.sh")
        print(f"{OUT.name} is what its sources compile to")
        return
    OUT.write_bytes(gzip.compress(content, 9, mtime=0))
    print(f"{OUT.name}: {len(texts)} modules, {len(content)} bytes, {OUT.stat().st_size} compressed")


main()
