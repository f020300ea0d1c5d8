"""Servers for the tests: each runs in a temporary directory on free ports and is gone at the end.

ROOKERY_TEST_SERVER=prosody runs the suite against Debian's Prosody instead, to compare, and to test the tests.
ROOKERY_TEST_CLUSTER=1 runs it against clusters of three nodes: every new connection goes to the next node, so that no
two clients of a test are on the same one.
ROOKERY_BUILD names the build directory (default build/asan, else build).
"""
import importlib.util
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests/tools"))
from ports import free_hundreds, free_port  # noqa: E402,F401
DOMAINS = ("rookery.test", "second.test")


def build_dir():
    if "ROOKERY_BUILD" in os.environ:
        return ROOT / os.environ["ROOKERY_BUILD"]
    return next((d for d in (ROOT / "build/asan", ROOT / "build") if (d / "rookeryd").exists()), ROOT / "build/asan")


def make_certificate(directory, domain, suffix=""):
    """A self-signed one for P-256; returns (certificate, key)."""
    crt, key = directory / f"{domain}{suffix}.crt", directory / f"{domain}{suffix}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "30", "-subj", f"/CN={domain}", "-addext", f"subjectAltName=DNS:{domain}",
                    "-keyout", key, "-out", crt], check=True, capture_output=True)
    return crt, key


def to_yaml(value, indent=0):
    """Enough YAML for the configuration: mappings, lists of mappings, scalars."""
    pad, lines = "  " * indent, []
    for key, v in value.items():
        if isinstance(v, dict):
            lines += [f"{pad}{key}:", to_yaml(v, indent + 1)]
        elif isinstance(v, list):
            lines.append(f"{pad}{key}:")
            for item in v:
                inner = to_yaml(item, indent + 2)
                lines.append(f"{pad}  - {inner.lstrip()}")
        elif isinstance(v, bool):
            lines.append(f"{pad}{key}: {str(v).lower()}")
        elif isinstance(v, (str, Path)):
            lines.append(f'{pad}{key}: "{v}"')
        else:
            lines.append(f"{pad}{key}: {v}")
    return "\n".join(lines)


def merge(base, over):
    for key, v in over.items():
        base[key] = merge(dict(base.get(key, {})), v) if isinstance(v, dict) else v
    return base


class Server:
    """One daemon. settings: configuration laid over the generated one, as nested dicts."""
    kind = None

    def __init__(self, **settings):
        self.dir = Path(tempfile.mkdtemp(prefix="rookery-test-"))
        self.settings, self.process, self.domain = settings, None, DOMAINS[0]
        self.environment = {}  # added to ours
        self.port, self.tls_port, self.auto_port, self.http_port = (free_port() for _ in range(4))
        self.certificates = {d: make_certificate(self.dir, d) for d in DOMAINS}
        self.log_path = self.dir / "server.log"
        self.write_config()

    def command(self):
        raise NotImplementedError

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir,
                                            env=os.environ | self.environment)
        self.wait_ready()
        return self

    def wait_ready(self, seconds=30):
        deadline = time.monotonic() + seconds
        for port in self.ports():
            while True:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log()[-4000:]}")
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"nothing listens on port {port}:\n{self.log()[-4000:]}") from None
                    time.sleep(0.02)

    def ports(self):
        return self.port, self.tls_port

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds=20):
        """SIGTERM; the exit code."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode if self.process else None

    def restart(self):
        self.stop()
        return self.start()

    def remove(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def rss(self):
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024

    def sanitized(self):
        return False


class Rookery(Server):
    kind = "rookery"

    def config(self):
        return merge({
            "hosts": [{"domain": d, "certificate": c, "key": k} for d, (c, k) in self.certificates.items()],
            "listen": [{"address": "127.0.0.1", "port": self.port, "mode": "starttls"},
                       {"address": "127.0.0.1", "port": self.tls_port, "mode": "tls"},
                       {"address": "127.0.0.1", "port": self.auto_port, "mode": "auto"}],
            "http": [{"address": "127.0.0.1", "port": self.http_port}],
            "node": {"workers": 2},
            "storage": {"driver": "sqlite", "path": self.dir / "rookery.sqlite"},
            "control": {"socket": self.dir / "rookeryctl.sock"},
            "log": {"level": "debug"},
            # every test comes from one address, and many log in wrongly on purpose
            "c2s": {"max_failed_per_ip": 100000, "max_unauthenticated_per_ip": 10000},
        }, self.settings)

    def write_config(self):
        (self.dir / "rookery.yml").write_text(to_yaml(self.config()) + "\n")

    def command(self):
        return [build_dir() / "rookeryd", "--config", self.dir / "rookery.yml", "--pid", self.dir / "rookeryd.pid"]

    def ports(self):
        return self.port, self.tls_port, self.auto_port

    def ctl(self, *arguments, input=None, check=True):
        """rookeryctl; its output."""
        done = subprocess.run([build_dir() / "rookeryctl", "--dir", self.dir, *arguments], input=input, text=True,
                              capture_output=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"rookeryctl {' '.join(map(str, arguments))}: {done.stderr or done.stdout}")
        return done.stdout

    def add_user(self, local, domain, password):
        self.ctl("user", "add", f"{local}@{domain}", password)

    def sanitized(self):
        return b"__asan_init" in (build_dir() / "rookeryd").read_bytes()


def cluster_rig():
    """tests/cluster/rig.py, whose name is ours too."""
    spec = importlib.util.spec_from_file_location("cluster_rig", ROOT / "tests/cluster/rig.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class RookeryCluster(Rookery):
    """Three nodes that look like one server. rookeryctl speaks to the first."""
    NODES = 3

    def __init__(self, **settings):
        self.settings, self.process, self.domain = settings, None, DOMAINS[0]
        self.cluster = cluster_rig().Cluster(self.NODES, domains=DOMAINS)
        self.dir = self.cluster.top
        self.node_numbers = itertools.cycle(range(1, self.NODES + 1))

    def next_port(self, kind):
        return self.cluster.port(next(self.node_numbers), kind)

    port = property(lambda self: self.next_port("starttls"))
    tls_port = property(lambda self: self.next_port("tls"))
    auto_port = property(lambda self: self.next_port("auto"))

    @property
    def certificates(self):
        return {d: (self.dir / f"certs/{d}.crt", self.dir / f"certs/{d}.key") for d in DOMAINS}

    def start(self):
        if self.process:
            self.cluster.start("nodes")
        else:
            self.process = self.cluster  # it was started once
            settings = merge({"log": {"level": "debug"}, "c2s": {"max_failed_per_ip": 100000,
                                                                 "max_unauthenticated_per_ip": 10000}}, self.settings)
            self.cluster.extra.write_text(to_yaml(settings) + "\n")
            self.cluster.up()
        return self

    def kill(self):
        self.cluster.kill("nodes")

    def stop(self, seconds=20):
        self.cluster.stop("nodes")
        return 0

    def remove(self):
        self.cluster.remove()

    def log(self):
        return "".join(self.cluster.log(f"node{n + 1}") for n in range(self.NODES))

    def rss(self):
        pids = [pid for name, pid in self.cluster.pids().items() if name.startswith("node")]
        status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        return sum(int(re.search(r"VmRSS:\s+(\d+)", s)[1]) * 1024 for s in status)

    def ctl(self, *arguments, input=None, check=True):
        return self.cluster.ctl(1, *arguments, input=input, check=check)


class Prosody(Server):
    kind = "prosody"

    def write_config(self):
        hosts = "\n".join(f'VirtualHost "{d}"\n  ssl = {{ certificate = "{c}"; key = "{k}" }}'
                          for d, (c, k) in self.certificates.items())
        (self.dir / "prosody.cfg.lua").write_text(f"""
daemonize = false
run_as_root = true
pidfile = "{self.dir}/prosody.pid"
data_path = "{self.dir}/data"
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {self.port} }}
c2s_direct_tls_ports = {{ {self.tls_port} }}
ssl = {{ certificate = "{self.certificates[DOMAINS[0]][0]}"; key = "{self.certificates[DOMAINS[0]][1]}" }}
c2s_direct_tls_ssl = ssl
modules_enabled = {{ "roster"; "saslauth"; "tls"; "disco"; "carbons"; "blocklist"; "version"; "time"; "ping"; "mam";
  "smacks"; "posix"; "offline"; "presence"; "message"; "iq" }}
modules_disabled = {{ "s2s" }}
authentication = "internal_plain"
storage = "internal"
default_archive_policy = true
log = {{ info = "*console" }}
limits = {{ }}
{hosts}
""")
        for d in DOMAINS:
            (self.dir / "data" / d.replace(".", "%2e") / "accounts").mkdir(parents=True, exist_ok=True)

    def command(self):
        return ["prosody", "-F", "--config", self.dir / "prosody.cfg.lua"]

    def add_user(self, local, domain, password):
        name = "".join(c if c.isalnum() and c.isascii() else f"%{b:02x}" for c in local for b in c.encode()[:1])
        path = self.dir / "data" / domain.replace(".", "%2e") / "accounts" / f"{name}.dat"
        path.write_text(f'return {{ ["password"] = "{password}"; }};\n')


def clustered():
    return bool(os.environ.get("ROOKERY_TEST_CLUSTER"))


def new_server(**settings):
    prosody = os.environ.get("ROOKERY_TEST_SERVER") == "prosody"
    return (Prosody if prosody else RookeryCluster if clustered() else Rookery)(**settings)
