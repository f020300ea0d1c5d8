"""deploy/cluster itself, its PostgreSQL and Redis; without nodes."""
import os
import subprocess
import time

import pytest

import rig


@pytest.fixture
def services(new_cluster):
    return new_cluster(nodes=0)


def sql(cluster, text, timeout=15):
    """By the nodes' connection string: whichever server takes writes."""
    conninfo = (cluster.top / "certs/conninfo").read_text().strip()
    done = subprocess.run(["psql", conninfo, "-XAtqc", text], text=True, capture_output=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def roles(cluster, kind):
    return {s["name"]: s["role"] for s in cluster.status()[kind]}


def primary(cluster):
    return next(s for s in cluster.status()["postgres"] if s["role"] == "primary")


def eventually(test, seconds=20):
    deadline = time.monotonic() + seconds
    while not (result := test()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)
    return result


def test_settings_that_no_acknowledged_message_is_lost_with(services):
    want = {"fsync": "on", "full_page_writes": "on", "data_checksums": "on", "synchronous_commit": "on",
            "synchronous_standby_names": "ANY 1 (standby1)"}
    assert {name: sql(services, f"show {name}") for name in want} == want
    assert primary(services)["synchronous"]


def test_promotion_keeps_what_was_committed(services):
    """And the old primary comes back as the new one's synchronous standby, twice."""
    sql(services, "create table t (n int)")
    for n, (old, new) in enumerate((("pg1", "pg2"), ("pg2", "pg1"))):
        sql(services, f"insert into t values ({n})")
        services.kill("pg")
        with pytest.raises(RuntimeError):
            sql(services, "insert into t values (-1)")
        services.promote()
        assert roles(services, "postgres") == {old: "standby", new: "primary"}
        assert not primary(services)["synchronous"]
        assert sql(services, f"insert into t values ({n}) returning (select count(*) from t)") == str(2 * n + 1)
        services.start("pg")
        assert primary(services)["synchronous"]


def test_promotion_ends_a_primary_that_hangs(services):
    """When it wakes it must not take writes beside the new one."""
    old = primary(services)["pid"]
    services.pause("pg")
    services.promote()
    sql(services, "create table t (n int)")
    services.resume("pg1")
    assert not alive(old)


def test_no_commit_without_the_standby(services):
    sql(services, "create table t (n int)")
    services.kill("standby")
    with pytest.raises(subprocess.TimeoutExpired):
        sql(services, "insert into t values (1)", timeout=3)
    services.start("standby")
    assert sql(services, "insert into t values (2) returning n") == "2"


def test_primary_that_died_starts_again(services):
    sql(services, "create table t (n int)")
    services.kill("pg1", "pg2")
    services.start("pg")
    sql(services, "insert into t values (1)")
    assert primary(services)["synchronous"]


def test_redis_fails_over(services):
    services.kill("redis")
    eventually(lambda: roles(services, "redis")["redis2"] == "master")
    services.start("redis")
    eventually(lambda: roles(services, "redis")["redis1"] == "replica")


def test_up_again_starts_what_is_down(services):
    before = services.pids()
    services.kill("standby", "sentinel2")
    services.stop("redis2")
    services.up()
    after = services.pids()
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"pg2", "sentinel2", "redis2"}


def test_up_on_another_layout_is_refused(services):
    done = services.tool("up", "--nodes", 2, "--no-install", check=False)
    assert done.returncode == 1 and "has nodes 0" in done.stderr
    done = services.tool("kill", "node1", check=False)
    assert done.returncode == 1 and "there is no node1" in done.stderr


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def below(directory):
    """Processes that work in a directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd").startswith(str(directory)) and alive(pid):
                found.append(pid)
        except OSError:
            pass
    return found


def test_down_leaves_no_process_and_touches_no_stranger(services):
    services.stop("redis1")
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        (services.top / "pids/redis1").write_text(f"{stranger.pid} 1\n")  # a stale file: the id was given to another process
        assert len(below(services.dir)) > 8 and "redis1" not in services.pids()
        services.pause("pg", "sentinel1")
        services.tool("down")
        assert below(services.dir) == [] and stranger.poll() is None
        assert "Stopped." in services.tool("down").stdout  # again
    finally:
        stranger.kill()
        stranger.wait()


def test_down_removes(services):
    services.tool("down", "--remove")
    assert not services.top.exists() and below(services.dir) == []


def test_ports_in_use_are_named(services):
    other = services.dir / "other"
    done = subprocess.run([rig.TOOL, "up", "--nodes", "0", "--no-install", "--dir", other, "--port-base",
                           str(services.port_base)], text=True, capture_output=True)
    assert done.returncode == 1 and f"port {services.port_base + 11}: Address already in use" in done.stderr
    assert not other.exists()
