"""Kotlin on the Java virtual machine against real processes. GRAFT_TOOLS: where tools may be installed."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = pathlib.Path(os.environ["GRAFT_TOOLS"])
LIBRARY = pathlib.Path(os.environ["GRAFT_LIBRARY"])
JNA = pathlib.Path(os.environ.get("GRAFT_JNA", "/usr/share/java/jna.jar"))
# The Kotlin compiler, its library and coroutines, as a package of PyPI's ships them.
COMPILER = "kotlin-jupyter-kernel==0.19.0.944"


@pytest.fixture(scope="session")
def compiler():
    """The jar with the compiler, and the folder of Kotlin's library."""
    if not shutil.which("java") or not JNA.exists():
        pytest.skip("no Java, or no JNA")
    at = TOOLS / "kotlin"
    if not at.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", at, COMPILER]
        subprocess.run(install, check=True)
    jars = at / "run_kotlin_kernel" / "jars"
    return next(jars.glob("kotlin-jupyter-kernel-*-all.jar")), next(jars.glob("kotlin-stdlib-*.jar"))


def test_an_app_in_kotlin(site, settings, compiler, tmp_path):
    kernel, library = compiler
    sources = [*sorted((HERE.parent / "kotlin/src/main/kotlin/graft/sdk").glob("*.kt")), HERE / "App.kt"]
    path = f"{library}:{kernel}:{JNA}"
    compile = ["java", "-Xmx1g", "-cp", f"{kernel}:{library}", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect"]
    subprocess.run([*compile, "-nowarn", "-cp", path, "-d", tmp_path / "app", *sources], check=True, timeout=300)
    run = ["java", f"-Djna.library.path={LIBRARY.parent}", "-cp", f"{tmp_path}/app:{path}", "AppKt"]
    ran = subprocess.run(run, env=settings, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("espresso in ")
