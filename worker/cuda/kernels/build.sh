#!/usr/bin/env bash
# Compiles the kernels to what is embedded in programs, with the hash of its sources inside: PTX, which drivers compile for any device
# (kernels.ptx.gz), and what it compiles to for those of COMPILED in build.py (kernels.cubins.gz).
#   build.sh           compiles, prints registers and spills, and writes the files
#   build.sh --check   compiles, and fails where a file differs or a kernel spills registers
# The versions are fixed, so that the same sources give the same text; PTX of CUDA 13.0 loads on its drivers and all later ones.
# Needs Python 3 with venv; the toolchain comes from PyPI into a folder of its own (GRAFT_CUDA_TOOLS, else .tools here).
set -euo pipefail
cd "$(dirname "$0")"
tools=${GRAFT_CUDA_TOOLS:-$PWD/.tools}
if [ ! -x "$tools/bin/python" ]; then
    python3 -m venv "$tools"
fi
packages=$("$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
if [ ! -x "$packages/nvidia/cu13/bin/nvcc" ]; then
    "$tools/bin/pip" install --quiet --disable-pip-version-check \
        'nvidia-cuda-nvcc==13.0.88' 'nvidia-nvvm==13.0.88' 'nvidia-cuda-crt==13.0.88' \
        'nvidia-cuda-runtime==13.0.96' 'nvidia-cuda-cccl==13.0.85'
fi
PATH=$packages/nvidia/cu13/bin:$PATH exec "$tools/bin/python" build.py "$@"
