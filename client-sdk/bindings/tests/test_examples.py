"""The example commands, as their users run them."""

import os
import subprocess
import sys

from conftest import MODEL, ROOT
from test_c import LIBRARY

EXAMPLES = ROOT / "client-sdk" / "examples"


def test_the_command_in_python(site, tmp_path):
    picture = MODEL / "espresso.png"
    command = [sys.executable, EXAMPLES / "python" / "classify.py", MODEL, picture, "--slo-ms", "5000"]
    there = ["--router", site.router, "--ca", site.authority, "--prefer", "speed", "--cache", tmp_path]
    for arguments, words in [([], "here: no router"), (there, "espresso.png: espresso in ")]:
        ran = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0 and words in ran.stdout, ran


def test_the_command_in_c(site, tmp_path):
    app = tmp_path / "classify"
    source = EXAMPLES / "c" / "classify.c"
    include = ROOT / "client-sdk" / "bindings" / "c" / "include"
    flags = [f"-I{include}", f"-L{LIBRARY.parent}", "-lgraft_sdk", f"-Wl,-rpath,{LIBRARY.parent}"]
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", source, *flags, "-o", app], check=True)
    for arguments, words in [([], " here "), ([site.router, site.authority], "espresso in ")]:
        ran = subprocess.run([app, MODEL, MODEL / "espresso.png", *arguments], capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0 and words in ran.stdout, ran
    failed = subprocess.run([app, "no-such-model", MODEL / "espresso.png"], capture_output=True, text=True, timeout=60, env=os.environ)
    assert failed.returncode == 1 and "no-such-model" in failed.stderr
