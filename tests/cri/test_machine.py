# SPDX-License-Identifier: Apache-2.0
"""The lab's own promise: whoever is killed, closing the cluster leaves nothing of a host that ran pods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from lab.cluster import Cluster
from lab.machine import cgroups
from lab.process import SOURCE

_LIVES = """
import os, signal, sys
from lab.cluster import Cluster
from lab.containerd import Containerd
from lab.cri import PodSetting

cluster = Cluster(name=sys.argv[1], hosts=1, controllers=1)
cluster.start()
runtime = Containerd(cluster, cluster.hosts[0])
runtime.start_ready()
pod = PodSetting(name="left", uid="uid-left", cgroup=runtime.machine.cgroup)
sandbox = runtime.cri.run_sandbox(pod)
runtime.cri.run_container(pod, sandbox, ["sleep", "1000"])
print(*runtime.machine.processes(), flush=True)
runtime.kill()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_after_kills_of_containerd_and_of_the_test() -> None:
    """A process that ran a pod is killed with its containerd: closing the cluster by name removes every trace."""
    name = f"m{os.getpid()}"
    done = subprocess.run(
        [sys.executable, "-c", _LIVES, name], cwd=SOURCE, stdout=subprocess.PIPE, text=True, timeout=100, check=False
    )
    cluster = Cluster(name=name)
    try:
        assert done.returncode == -signal.SIGKILL
        assert len(done.stdout.split()) > 4
        assert cgroups(f"/ilanet-lab-{name}")
        assert cluster.leftovers()
    finally:
        cluster.close()
    assert cluster.leftovers() == []
    left = [pid for pid in done.stdout.split() if lives(int(pid))]
    assert left == []


def lives(pid: int) -> bool:
    """Tell whether a process runs: one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
