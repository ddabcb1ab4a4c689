"""A site of real processes: planner, worker, router. GRAFT_BIN: the folder of the programs; GRAFT_LIBRARY: libgraft_sdk."""

import os
import pathlib
import socket
import subprocess
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAMS = pathlib.Path(os.environ["GRAFT_BIN"])
MODEL = ROOT / "models" / "efficientnet-lite0"


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Site:
    def __init__(self, folder):
        self.folder = folder
        self.running = {}
        udp, tcp = socket.SOCK_DGRAM, socket.SOCK_STREAM
        self.quic, planner, worker = (free_port(udp) for _ in range(3))
        self.http, planner_http, worker_http = (free_port(tcp) for _ in range(3))
        self.graft("ca", "init", "--dir", folder)
        for role in ("planner", "worker", "router"):
            self.graft("ca", "issue", "--role", role, "--dir", folder)
        host = "127.0.0.1"
        self.write("planner", f'listen = "{host}:{planner}"\nhttp = "{host}:{planner_http}"\nstate = "{folder}/planner-state"\n')
        self.write("worker", f'name = "worker-1"\nmodels = "{ROOT}/models"\nlisten = "{host}:{worker}"\nplanner = "{host}:{planner}"\n'
                   f'http = "{host}:{worker_http}"\nstate = "{folder}/worker-state"\nbatches = [1, 2]\n')
        self.write("router", f'name = "router-1"\nmodels = "{ROOT}/models"\nlisten = "{host}:{self.quic}"\nplanner = "{host}:{planner}"\n'
                   f'http = "{host}:{self.http}"\nhttp_budget_ms = 2000\n')

    def graft(self, *arguments):
        subprocess.run([PROGRAMS / "graft", *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def write(self, part, text):
        tls = f'[tls]\ncertificate = "{self.folder}/{part}.pem"\nkey = "{self.folder}/{part}.key"\nauthority = "{self.folder}/ca.pem"\n'
        (self.folder / f"{part}.toml").write_text(text + tls)

    def start(self, part):
        log = open(self.folder / f"{part}.log", "ab")
        command = [PROGRAMS / f"graft-{part}", "--config", self.folder / f"{part}.toml"]
        self.running[part] = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self, part):
        process = self.running.pop(part)
        process.kill()
        process.wait()

    def until_ready(self, patience=120):
        end = time.monotonic() + patience
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.1)
        logs = "\n".join((self.folder / f"{part}.log").read_text()[-2000:] for part in self.running)
        raise AssertionError(f"the site is not ready after {patience} s:\n{logs}")

    @property
    def router(self):
        return f"127.0.0.1:{self.quic}"

    @property
    def authority(self):
        return self.folder / "ca.pem"

    def served(self):
        """How many requests ended well, as the router counts."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=5).read().decode()
        lines = [line for line in text.splitlines() if line.startswith("graft_router_requests_total") and '"ok"' in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    for part in ("planner", "worker", "router"):
        site.start(part)
    site.until_ready()
    yield site
    for part in list(site.running):
        site.stop(part)


@pytest.fixture(scope="session")
def settings(site):
    """What programs in other languages are told: they read their environment."""
    return os.environ | {
        "GRAFT_ROUTER": site.router,
        "GRAFT_AUTHORITY": str(site.authority),
        "GRAFT_MODEL": str(MODEL),
        "GRAFT_PICTURE": str(MODEL / "espresso.png"),
    }
