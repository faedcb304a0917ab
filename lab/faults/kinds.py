# SPDX-License-Identifier: Apache-2.0
"""The kinds of fault: each does its harm, lets time pass under it, and undoes it; for drive.py only.

A kind says what it explains: verdicts whose packets may be dropped, codes after which a runtime tries again.  Only
where the fault is the wire itself may packets of established traffic be lost.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.kernel.bpf_map import Map
from lab.fabric import Host
from lab.faults.flood import Flood
from lab.faults.kind import kind
from lab.faults.members import etcd
from lab.faults.power import restart_pods
from lab.faults.stage import Stage
from lab.namespace import CommandError, run
from lab.process import SOURCE, Process

IO_FAILURE = 5

_CUT = """
table inet ilanet_fault {{
  chain out {{ type filter hook output priority 0; tcp dport {port} drop; }}
  chain in {{ type filter hook input priority 0; tcp sport {port} drop; }}
}}
"""


# --- processes ---


@kind("agent kill")
def agent_kill(stage: Stage) -> Iterator[None]:
    """Kill an agent and start it again, sometimes killed twice more on its way up."""
    host = stage.any_host()
    process = stage.cluster.agents[host.name]
    process.kill()
    yield
    for _ in range(stage.random.randrange(3)):
        stage.cluster.start_agent(host)
        stage.hold(stage.random.uniform(0.05, 0.8))
        process.kill()
    stage.cluster.start_agent(host)


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """Stop a process and let it go on."""
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@kind("agent freeze")
def agent_freeze(stage: Stage) -> Iterator[None]:
    """Freeze an agent."""
    with frozen(stage.cluster.agents[stage.any_host().name]):
        yield


@kind("controller kill")
def controller_kill(stage: Stage) -> Iterator[None]:
    """Kill one controller or both."""
    chosen = stage.random.sample(stage.cluster.controllers, stage.random.randint(1, 2))
    for process in chosen:
        process.kill()
    yield
    for process in chosen:
        process.start()


@kind("controller freeze")
def controller_freeze(stage: Stage) -> Iterator[None]:
    """Freeze one controller or both."""
    with contextlib.ExitStack() as stack:
        for process in stage.random.sample(stage.cluster.controllers, stage.random.randint(1, 2)):
            stack.enter_context(frozen(process))
        yield


# --- the network between an agent and its servers ---


@contextmanager
def cut_off(host: Host, port: int) -> Iterator[None]:
    """Drop what a host sends to a port anywhere, itself included, and what comes from there."""
    host.namespace.run("nft", "-f", "-", stdin=_CUT.format(port=port))
    try:
        yield
    finally:
        host.namespace.run("nft", "delete", "table", "inet", "ilanet_fault")


@kind("cut off from etcd")
def cut_off_etcd(stage: Stage) -> Iterator[None]:
    """Cut a host off from every member of etcd."""
    with cut_off(stage.any_host(), 2379):
        yield


@kind("cut off from controllers")
def cut_off_controllers(stage: Stage) -> Iterator[None]:
    """Cut a host off from every controller."""
    with cut_off(stage.any_host(), 7443):
        yield


@kind("link down", hold=(0.2, 0.2), wire=True)
def link_down(stage: Stage) -> Iterator[None]:
    """Take the link of a host with traffic down for 200 ms."""
    host = stage.random.choice(stage.hosts[:2])
    stage.cluster.fabric.unplug(host)
    yield
    stage.cluster.fabric.plug(host)


# --- the kernel's part ---


@kind("bpffs unmounted", codes=frozenset({IO_FAILURE}))
def bpffs_unmounted(stage: Stage) -> Iterator[None]:
    """Unmount the bpffs that holds an agent's pins; the host mounts a new one once the agent has said so."""
    host = stage.any_host()
    place = str(stage.cluster.bpffs(host))
    stage.until(lambda: unmounted(place), f"{place} unmounted")
    try:
        stage.until(lambda: "bpffs" in stage.problems(host).get("host", ""), f"{host.name} misses its bpffs")
        yield
    finally:
        stage.cluster.mount_bpffs(host)


def unmounted(place: str) -> bool:
    """Unmount; not while somebody just looks at a pin."""
    try:
        run("umount", place)
    except CommandError:
        return False
    return True


@kind("map full")
def map_full(stage: Stage) -> Iterator[None]:
    """Fill a host's map of mappings to the last entry; the agent must say so."""
    host = stage.any_host()
    stage.flooded = True
    with Map.pinned(stage.cluster.bpffs(host) / "ilanet/maps/mappings") as mappings:
        flood = Flood(mappings)
        try:
            # Each pod that goes leaves room for one that comes.
            stage.until(
                lambda: flood.rise() and "mappings" in stage.problems(host), f"{host.name} says its map is full"
            )
            yield
        finally:
            flood.fall()
            stage.flooded = False


@kind("programs replaced", hold=(0.0, 0.5))
def programs_replaced(stage: Stage) -> Iterator[None]:
    """Start an agent with other constants, then with the old ones: both times its programs are replaced."""
    host = stage.any_host()
    other = "bpf" if stage.host_path == "stack" else "stack"
    change: dict[str, object] = stage.random.choice([{"host_path": other}, {"reject_mark": 0x0200_0000}])
    stage.cluster.agents[host.name].stop()
    stage.cluster.start_agent(host, **change)
    try:
        stage.until(lambda: not stage.problems(host), f"{host.name} serves with {change}")
        yield
    finally:
        stage.cluster.agents[host.name].stop()
        stage.cluster.start_agent(host, host_path=stage.host_path)


@kind("maps of another form", hold=(0.0, 0.5))
def maps_replaced(stage: Stage) -> Iterator[None]:
    """Start an agent with programs whose map of mappings has another size, then with the usual ones.

    Both times the map is made anew and filled from the old one, and every program is replaced.
    """
    host = stage.any_host()
    other = stage.cluster.directory / "other.bpf.o"
    if not other.exists():
        compile_with_fewer_mappings(other)
    stage.cluster.agents[host.name].stop()
    stage.cluster.start_agent(host, bpf_object=str(other))
    try:
        stage.until(lambda: not stage.problems(host), f"{host.name} serves with {other.name}")
        yield
    finally:
        stage.cluster.agents[host.name].stop()
        stage.cluster.start_agent(host, host_path=stage.host_path)


def compile_with_fewer_mappings(target: Path) -> None:
    """Compile the programs with a smaller map of mappings."""
    sources = target.parent / "other-bpf"
    shutil.copytree(SOURCE / "agent/bpf", sources)
    maps = sources / "maps.h"
    text = maps.read_text()
    if text.count("1048576") != 1:
        raise CommandError(f"{maps} does not say once how many mappings there may be")
    maps.write_text(text.replace("1048576", "65536"))
    headers = f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"
    flags = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-I", str(sources), "-isystem", headers)
    run("clang", *flags, "-c", str(sources / "ilanet.bpf.c"), "-o", str(target))


# --- power and disk ---


@kind("node power-off")
def power_off(stage: Stage) -> Iterator[None]:
    """End everything on the third host at once but its disk; then power comes back, and the runtime with its pods."""
    host = stage.hosts[2]
    churn = stage.churns[host.name]
    churn.lose_power()
    stage.cluster.agents[host.name].kill()
    etcd(stage).kill(2)
    stage.cluster.fabric.power_off(host)
    left, kept = churn.left(), stage.pods["echo3"]
    for pod in (kept, left):
        if pod is not None:
            pod.namespace.close()
    run("umount", str(stage.cluster.bpffs(host)))
    shutil.rmtree(stage.cluster.socket(host).parent)
    yield
    stage.cluster.fabric.power_on(host)
    stage.note_bare(host)
    stage.cluster.mount_bpffs(host)
    etcd(stage).start()
    stage.cluster.start_agent(host)
    restart_pods(stage, host, kept, left)
    churn.begin()


@kind("agent's disk full", codes=frozenset({IO_FAILURE}))
def agent_disk_full(stage: Stage) -> Iterator[None]:
    """Fill the file system that holds an agent's records."""
    ballast = stage.cluster.state(stage.any_host()) / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    ballast.unlink()
