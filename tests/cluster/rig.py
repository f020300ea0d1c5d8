"""A cluster for tests: deploy/cluster in a temporary directory on free ports, gone at the end.

ROOKERY_BUILD names the build directory (default build/asan, else build). ROOKERY_KEEP=1 leaves the directory of a
cluster behind, with all logs.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "deploy/cluster"
sys.path.append(str(ROOT / "tests/tools"))
from ports import free_hundreds, give_back  # noqa: E402


def build_dir():
    if "ROOKERY_BUILD" in os.environ:
        return ROOT / os.environ["ROOKERY_BUILD"]
    return next((d for d in (ROOT / "build/asan", ROOT / "build") if (d / "rookeryd").exists()), ROOT / "build/asan")


class Cluster:
    """Nodes are numbered from 1. extra: more configuration for every node, as YAML; its sections replace the rig's."""

    def __init__(self, nodes=3, users=0, domains=("rookery.test",), extra="", supervise=False):
        self.dir = Path(tempfile.mkdtemp(prefix="rookery-cluster-"))
        self.top = self.dir / "c"
        self.node_count, self.users, self.domains, self.supervise = nodes, users, domains, supervise
        self.port_base, self.extra = free_hundreds(nodes + 1), self.dir / "extra.yml"
        self.extra.write_text(extra)
        self.dir.chmod(0o711)  # PostgreSQL's user must get through

    def tool(self, verb, *arguments, check=True, timeout=180):
        done = subprocess.run([TOOL, verb, "--dir", self.top, *map(str, arguments)], text=True, capture_output=True,
                              timeout=timeout)
        if check and done.returncode:
            raise RuntimeError(f"deploy/cluster {verb} {' '.join(map(str, arguments))}: {done.stderr or done.stdout}")
        return done

    def up(self):
        domains = [word for d in self.domains for word in ("--domain", d)]
        self.tool("up", "--nodes", self.node_count, "--port-base", self.port_base, *domains, "--users", self.users,
                  "--extra", self.extra, "--build", build_dir(), "--no-install", *(["--supervise"] if self.supervise else []))
        return self

    def down(self):
        """Stops everything; what the sanitizers complained about."""
        if self.top.exists():
            self.tool("down")
        return [log.name + ":\n" + text[max(0, at - 500):at + 6000]
                for log in sorted(self.top.glob("logs/node*.log")) if (text := log.read_text(errors="replace"))
                for word in ("Sanitizer", "runtime error:") if (at := text.find(word)) >= 0]

    def remove(self):
        """Stops everything and deletes it."""
        if self.top.exists():
            keep = bool(os.environ.get("ROOKERY_KEEP"))
            self.tool("down", *([] if keep else ["--remove"]))
            if keep:
                print(f"left in {self.top}")
                return
        shutil.rmtree(self.dir, ignore_errors=True)
        give_back(self.port_base)

    def kill(self, *names):
        self.tool("kill", *names)

    def start(self, *names):
        self.tool("start", *names)

    def stop(self, *names):
        self.tool("stop", *names)

    def pause(self, *names):
        self.tool("pause", *names)

    def resume(self, *names):
        self.tool("resume", *names)

    def promote(self):
        self.tool("promote")

    def status(self):
        return json.loads(self.tool("status", "--json").stdout)

    def port(self, node, kind="tls"):
        """kind: starttls, tls, auto, http, link."""
        return self.port_base + 100 * node + {"starttls": 22, "tls": 23, "auto": 43, "http": 80, "link": 90}[kind]

    def node_dir(self, node):
        return self.top / f"node{node}"

    def ctl(self, node, *arguments, input=None, check=True):
        """rookeryctl on a node; its output."""
        done = subprocess.run([build_dir() / "rookeryctl", "--dir", self.node_dir(node), *map(str, arguments)], input=input,
                              text=True, capture_output=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"node{node}: rookeryctl {' '.join(map(str, arguments))}: {done.stderr or done.stdout}")
        return done.stdout

    def log(self, name):
        path = self.top / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def pids(self):
        """Of everything that runs, by name."""
        s = self.status()
        return {x["name"]: x["pid"] for kind in ("nodes", "postgres", "redis") for x in s[kind] if x["pid"]}
