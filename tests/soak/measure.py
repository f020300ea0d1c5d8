"""What the long tests measure, and where their results go."""
import asyncio
import datetime
import os
import platform
import resource
import time
from pathlib import Path

from xmpp import Stream

RESULTS = Path(__file__).resolve().parents[2] / "bench/results"


def allow_descriptors(n):
    """For this process and its children; the number that it is now. Only CAP_SYS_RESOURCE raises the hard limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(n, hard), max(n, hard)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def machine():
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, load average before {load:.1f}"


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


async def login(server, user, password, resource="r"):
    """A bound session."""
    stream = await Stream.connect(server.tls_port, server.domain)
    await stream.login(user, password)
    await stream.bind(resource)
    return stream


async def login_times(server, user, password, count):
    """Milliseconds of logins one after the other: TCP, TLS, SCRAM with the client's own work, bind."""
    times = []
    for _ in range(count):
        start = time.monotonic()
        stream = await login(server, user, password)
        times.append((time.monotonic() - start) * 1000)
        stream.write("</stream:stream>")
        stream.cut()
    return times


def write_result(name, title, text):
    path = RESULTS / f"{datetime.date.today()}-{name}.md"
    path.write_text(f"# {title}, {datetime.date.today()}\n\n{text}\n")
    print(f"{path.relative_to(RESULTS.parents[1])}:\n{text}")


def sync(coroutine):
    return asyncio.run(coroutine)
