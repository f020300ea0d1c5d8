"""Servers to be measured, each started fresh: bench/compare-all and bench/ablation."""
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # contexts end: what was started does not stay


def sh(*command, **more):
    return subprocess.run([str(c) for c in command], check=True, text=True, capture_output=True, cwd=ROOT, **more).stdout


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def stop(pids, seconds=20):
    """Ends processes that were started here."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            if not gone(pid):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all(map(gone, pids)):
            time.sleep(0.1)


class Server:
    """One server, fresh; a context. arguments: rookery-bench's; leaves out: scenarios it has nothing for."""
    leaves_out, mechanism = (), "SCRAM-SHA-1"

    def __init__(self, port, users):
        self.port, self.users, self.password = port, users, secrets.token_hex(8)

    def __enter__(self):
        self.dir, self.pids = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-")), []
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        stop(self.pids)
        shutil.rmtree(self.dir, ignore_errors=True)

    def arguments(self):
        return ["--port", self.port, "--password", self.password, "--mechanism", self.mechanism, "--pid", ",".join(map(str, self.pids))]


class Relay(Server):
    name, leaves_out = "relay", ("chat-acked", "presence", "group", "archive")

    def start(self):
        self.process = subprocess.Popen([ROOT / "build/rookery-relay", str(self.port)])
        self.pids = [self.process.pid]
        time.sleep(0.5)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def arguments(self):
        return ["--relay", *super().arguments()]


class Rookery(Server):
    """A node of our own; build: where rookeryd and rookeryctl are."""
    name = "rookery"

    def __init__(self, port, users, build=ROOT / "build"):
        super().__init__(port, users)
        self.build = build

    def start(self):
        node = self.dir / "node"
        sh("deploy/quickstart", "--detach", "--no-install", "--build", self.build, "--dir", node, "--port-base", self.port - 22, "--user", f"admin:{self.password}")
        self.pids = [int((node / "rookeryd.pid").read_text())]
        sh(self.build / "rookeryctl", "--dir", node, "user", "import", "--domain", "localhost", "--scram-iterations", "4096",
           input="".join(f"user{i},{self.password}\n" for i in range(self.users)))


class Peer(Server):
    """bench/peers/NAME DIR PORT USERS PASSWORD"""

    def start(self):
        try:
            sh(ROOT / "bench/peers" / self.name, self.dir, self.port, self.users, self.password)
        except subprocess.CalledProcessError as e:
            raise RuntimeError(e.stderr) from None
        finally:
            pid_file = self.dir / f"{self.name}.pid"
            self.pids = [int(p) for p in pid_file.read_text().split(",")] if pid_file.exists() else []


class Ejabberd(Peer):
    """pids: Erlang's, and that of PostgreSQL, whose work its children do."""
    name = "ejabberd"

    def arguments(self):
        arguments = super().arguments()
        return [*arguments[:-1], f"{arguments[-1]}+"] if len(self.pids) == 2 else arguments


class Prosody(Peer):
    name = "prosody"


class Jabberd2(Peer):
    name, leaves_out, mechanism = "jabberd2", ("chat-acked", "group", "archive"), "PLAIN"


SERVERS = {c.name: c for c in (Relay, Rookery, Ejabberd, Prosody, Jabberd2)}


def machine():
    """The head of a report: processor, kernel."""
    model = next(l for l in open("/proc/cpuinfo") if l.startswith("model name")).partition(":")[2].strip()
    return f"{os.cpu_count()} cores, {model}, Linux {os.uname().release}"


def version():
    return sh("git", "describe", "--always", "--dirty", "--exclude", "*").strip()
