# SPDX-License-Identifier: Apache-2.0
"""`make test-kind`: a kind cluster on Docker with ilanet, the tests of tests/cluster on it, and its removal."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.image import write_image
from lab.kubernetes.build_image import images
from lab.kubernetes.cluster import TEST_IMAGE
from lab.kubernetes.programs import AGNHOST, built
from lab.namespace import CommandError, run
from lab.process import SOURCE
from lab.progress import progress

DEPLOY = SOURCE / "deploy/kind"
NAME = f"ilanet-test-{os.getpid()}"
"""Of the cluster: no one that somebody made by hand with deploy/kind/kind.yaml has it."""

_PATIENCE = 600.0


def missing() -> str:
    """Return what this machine lacks to run kind; '' if nothing."""
    asked = {
        ("docker", "info"): "a running Docker (docker.io in Debian)",
        ("kind", "version"): "kind (kind.sigs.k8s.io)",
    }
    for command, what in asked.items():
        try:
            run(*command)
        except FileNotFoundError:
            return f"{what}: there is no command {command[0]!r}"
        except CommandError as error:
            return f"{what}: {error}"
    return ""


@contextmanager
def cluster(directory: Path) -> Iterator[Path]:
    """Make a cluster, yield its kubeconfig, and remove it: what could not be created, kind has taken away itself."""
    config = directory / "kubeconfig"
    words = ("--name", NAME, "--config", str(DEPLOY / "kind.yaml"), "--kubeconfig", str(config))
    progress("a kind cluster of three nodes")
    run("kind", "create", "cluster", *words, timeout=_PATIENCE)
    try:
        yield config
    finally:
        run("kind", "delete", "cluster", "--name", NAME, "--kubeconfig", str(config), timeout=_PATIENCE)


def deploy(config: Path, archives: Mapping[str, Path], programs: Path) -> None:
    """Give its nodes the images and deploy ilanet."""
    for image, archive in archives.items():
        progress(f"{image} to its nodes")
        run("kind", "load", "image-archive", str(archive), "--name", NAME, timeout=_PATIENCE)
    kubectl = (str(programs / "kubectl"), f"--kubeconfig={config}")
    progress("kubectl apply -k deploy/kind")
    run(*kubectl, "apply", "-k", str(DEPLOY))
    run(*kubectl, "wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={_PATIENCE:.0f}s", timeout=_PATIENCE)


def run_tests(directory: Path, archives: Mapping[str, Path], programs: Path, options: Sequence[str]) -> int:
    """Run the tests on a cluster of their own and return their exit status."""
    with cluster(directory) as config:
        deploy(config, archives, programs)
        environment = {**os.environ, "KUBECONFIG": str(config), "PATH": f"{programs}:{os.environ['PATH']}"}
        words = [sys.executable, "-m", "pytest", "tests/cluster", *options]
        return subprocess.run(words, env=environment, cwd=SOURCE, check=False).returncode


def main() -> int:
    """Run the command line; return the exit status: that of the tests, or 2 where they could not run."""
    parser = argparse.ArgumentParser(prog="lab.kubernetes.kind", description=__doc__)
    parser.add_argument("options", nargs="*", help="words of pytest")
    options = parser.parse_args()
    if lacking := missing():
        print(f"make test-kind needs {lacking}; nothing was run", flush=True)
        return 2
    with tempfile.TemporaryDirectory(prefix="ilanet-kind.") as folder:
        directory = Path(folder)
        programs, archives = built(progress), images(progress)
        archives[TEST_IMAGE] = directory / "agnhost.tar"
        write_image(archives[TEST_IMAGE], name=TEST_IMAGE, program=programs / AGNHOST)
        return run_tests(directory, archives, programs, options.options)


if __name__ == "__main__":
    raise SystemExit(main())
