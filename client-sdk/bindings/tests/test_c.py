"""The C interface against real processes, by an app in C."""

import os
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY = pathlib.Path(os.environ["GRAFT_LIBRARY"])


def compiled(tmp_path, *flags):
    app = tmp_path / "app"
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{HERE.parent}/c/include", str(HERE / "client.c"), "-o", str(app)]
    subprocess.run([*command, *flags, "-lpthread"], check=True)
    return app


def test_an_app_in_c(site, settings, tmp_path):
    app = compiled(tmp_path, f"-L{LIBRARY.parent}", "-lgraft_sdk", f"-Wl,-rpath,{LIBRARY.parent}")
    ran = subprocess.run([app], env=settings, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("espresso in ")


def test_the_header_is_sound_for_cpp(tmp_path):
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    source = tmp_path / "app.cpp"
    source.write_text("#include <graft.h>\nint main() { return graft_version() == nullptr; }\n")
    subprocess.run(["c++", "-std=c++17", "-Wall", "-Werror", f"-I{HERE.parent}/c/include", "-fsyntax-only", str(source)], check=True)
