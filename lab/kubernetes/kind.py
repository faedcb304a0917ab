# SPDX-License-Identifier: Apache-2.0
"""`make test-kind`: a kind cluster on Docker with ilanet, the tests of tests/cluster on it, and its removal."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lab.image import write_image
from lab.kubernetes.build_image import images
from lab.kubernetes.cluster import TEST_IMAGE
from lab.kubernetes.programs import AGNHOST, built, folder
from lab.namespace import CommandError, run
from lab.process import SOURCE
from lab.progress import progress

DEPLOY = SOURCE / "deploy/kind"
NAME = "ilanet"
"""Of the cluster, as deploy/kind/kind.yaml has it."""

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


def up(directory: Path) -> Path:
    """Make the cluster, give its nodes the images, deploy ilanet, and return its kubeconfig."""
    programs, archives = built(progress), images(progress)
    archives[TEST_IMAGE] = directory / "agnhost.tar"
    write_image(archives[TEST_IMAGE], name=TEST_IMAGE, program=programs / AGNHOST)
    config = directory / "kubeconfig"
    progress("a kind cluster of three nodes")
    run(
        "kind",
        "create",
        "cluster",
        "--config",
        str(DEPLOY / "kind.yaml"),
        "--kubeconfig",
        str(config),
        timeout=_PATIENCE,
    )
    for image, archive in archives.items():
        progress(f"{image} to its nodes")
        run("kind", "load", "image-archive", str(archive), "--name", NAME, timeout=_PATIENCE)
    kubectl = (str(programs / "kubectl"), f"--kubeconfig={config}")
    progress("kubectl apply -k deploy/kind")
    run(*kubectl, "apply", "-k", str(DEPLOY))
    run(*kubectl, "wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={_PATIENCE:.0f}s", timeout=_PATIENCE)
    return config


def main() -> int:
    """Run the command line; return the exit status: that of the tests, or 2 where they could not run."""
    parser = argparse.ArgumentParser(prog="lab.kubernetes.kind", description=__doc__)
    parser.add_argument("options", nargs="*", help="words of pytest")
    options = parser.parse_args()
    if lacking := missing():
        print(f"make test-kind needs {lacking}; nothing was run", flush=True)
        return 2
    with tempfile.TemporaryDirectory(prefix="ilanet-kind.") as directory:
        try:
            config = up(Path(directory))
            environment = {**os.environ, "KUBECONFIG": str(config), "PATH": f"{folder()}:{os.environ['PATH']}"}
            words = [sys.executable, "-m", "pytest", "tests/cluster", *options.options]
            return subprocess.run(words, env=environment, cwd=SOURCE, check=False).returncode
        finally:
            run("kind", "delete", "cluster", "--name", NAME, timeout=_PATIENCE)


if __name__ == "__main__":
    raise SystemExit(main())
