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
CUBINS = HERE / "kernels.cubins.gz"
FLAGS = ["-std=c++17", "-lineinfo"]
# Oldest devices that the kernels run on; PTX for them is compiled by the driver for all later ones.
ARCHITECTURE = "80"
# Devices for which it is compiled here, so that their drivers need not: registers and spills are looked at, too.
COMPILED = ["80", "86", "89", "90"]


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
    # Assembling the stripped text shows that it still is PTX.
    subprocess.run(["ptxas", f"-arch=sm_{COMPILED[-1]}", ptx, "-o", folder / "out.cubin"], check=True)
    # Lines of the sources would be kept in what is compiled, with the whole text.
    ptx.write_text(re.sub(r"^\.(loc|file)\b[^\n]*\n", "", text, flags=re.M))
    reports, cubins = [], {}
    for architecture in COMPILED:
        # -v tells registers and spills.
        cubin = folder / "out.cubin"
        out = subprocess.run(
            ["ptxas", "-v", f"-arch=sm_{architecture}", ptx, "-o", cubin], capture_output=True, text=True
        )
        if out.returncode:
            sys.exit(f"ptxas does not take {source.stem}: {out.stderr[:2000]}")
        reports.append((architecture, out.stderr))
        cubins[architecture] = cubin.read_bytes()
    return text, reports, cubins


def main():
    check = sys.argv[1:] == ["--check"]
    spills = 0
    texts, cubins = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        kernels = [s for s in sources() if s.suffix == ".cu"]
        folders = [pathlib.Path(folder) / s.stem for s in kernels]
        for f in folders:
            f.mkdir()
        with ThreadPoolExecutor(2) as pool:
            for source, (text, reports, compiled) in zip(kernels, pool.map(compile_one, kernels, folders)):
                texts[source.stem] = text
                cubins.update({(architecture, source.stem): cubin for architecture, cubin in compiled.items()})
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
    # A line with the sources' hash; then for each device and module a line with both and its length, and the bytes.
    packed = [f"graft cubins {source_hash()}\n".encode()]
    for (architecture, name), cubin in sorted(cubins.items()):
        packed += [f"{architecture} {name} {len(cubin)}\n".encode(), cubin]
    packed = b"".join(packed)
    if spills:
        sys.exit(f"{spills} bytes of registers are spilled")
    if check:
        for path, wanted in ((OUT, content), (CUBINS, packed)):
            if not path.exists() or gzip.decompress(path.read_bytes()) != wanted:
                sys.exit(f"{path.name} is not what its sources compile to: run worker/cuda/kernels/build.sh")
            print(f"{path.name} is what its sources compile to")
        return
    for path, made in ((OUT, content), (CUBINS, packed)):
        path.write_bytes(gzip.compress(made, 9, mtime=0))
        print(f"{path.name}: {len(texts)} modules, {len(made)} bytes, {path.stat().st_size} compressed")


main()
