# SPDX-License-Identifier: Apache-2.0
"""Behind `make cluster`, `make cluster-down`, `make kubectl`: a Kubernetes to play with; and what it is built from."""

from __future__ import annotations

import argparse
import subprocess

from lab.kubernetes.cluster import KubernetesCluster
from lab.kubernetes.enforcer import enforcer
from lab.kubernetes.programs import built, folder, renderers
from lab.namespace import NETNS, CommandError
from lab.process import ProcessError
from lab.progress import progress


def _up(cluster: KubernetesCluster) -> int:
    try:
        cluster.start()
    except (CommandError, ProcessError, OSError) as error:
        print(f"FAILED: {error}", flush=True)
        cluster.close()
        return 1
    except BaseException:
        cluster.close()
        raise
    print(cluster.kubectl("get", "nodes", "-o", "wide"), flush=True)
    progress("up: `make kubectl WORDS='get pods -A'` asks it, `make cluster-down` ends it")
    return 0


def _kubectl(cluster: KubernetesCluster, words: list[str]) -> int:
    """Run kubectl on the host of the control plane, with this terminal."""
    first = NETNS / f"{cluster.lab.name}-host1"
    if not first.exists():
        print("no cluster runs: `make cluster` brings one up", flush=True)
        return 2
    config = cluster.lab.directory / "kubernetes/admin.conf"
    command = ["nsenter", f"--net={first}", str(folder() / "kubectl"), f"--kubeconfig={config}", *words]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="lab.kubernetes", description="A real Kubernetes with ilanet, without Docker."
    )
    parser.add_argument("what", choices=["build", "renderers", "up", "down", "kubectl"])
    parser.add_argument("words", nargs=argparse.REMAINDER, help="of kubectl")
    options = parser.parse_args()
    cluster = KubernetesCluster(say=progress)
    if options.what == "build":
        built(progress)
        enforcer(progress)
        return 0
    if options.what == "renderers":
        renderers(progress)
        return 0
    if options.what == "up":
        return _up(cluster)
    if options.what == "kubectl":
        return _kubectl(cluster, options.words)
    cluster.close()
    left = cluster.lab.leftovers()
    progress(f"LEFT BEHIND: {', '.join(left)}" if left else "nothing is left: no process, namespace, mount or file")
    return bool(left)


if __name__ == "__main__":
    raise SystemExit(main())
