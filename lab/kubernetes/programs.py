# SPDX-License-Identifier: Apache-2.0
"""The programs of the test cluster and of the checks of deploy/, built once from source and kept in the user's cache.

Kubernetes from lab/kubernetes/go.mod, CoreDNS, Helm and kube-network-policies from the go.mod in the folder of each
below it: what they require and go.sum hold is what is built.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.namespace import run

CACHE = Path.home() / ".cache/ilanet"
"""One folder per version and way of building."""

GO = Path(sys.executable).parent / "go"
"""From requirements-cluster.txt: Debian 12's own is too old."""

AGNHOST = "agnhost"
"""The program of Kubernetes' own test images: serves and asks over HTTP, TCP, UDP and DNS."""

COREDNS = "coredns"
E2E = "e2e.test"
"""Kubernetes' own end-to-end tests; only who runs them needs it, and it takes minutes more."""

KUBECTL = "kubectl"
HELM = "helm"
NETPOL = "netpol"
"""kube-network-policies with the policies that Kubernetes itself has: lab/kubernetes/enforcer.py."""

_PATIENCE = 3600.0
"""Seconds that one program may take to build, on a loaded machine."""


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module that names what is built, the path that it requires of it, and the programs by name."""

    folder: Path
    path: str
    programs: Mapping[str, str]
    """Package of each, below the path; the first one takes minutes: it compiles what all of them share."""

    stamp: str = ""
    """Package whose variables hold the version, '' if the version is in the source."""

    @property
    def version(self) -> str:
        """The version that go.mod asks for, such as 'v1.34.4'."""
        text = (self.folder / "go.mod").read_text()
        found = re.search(rf"^require {re.escape(self.path)} (v\S+)$", text, re.MULTILINE)
        if found is None:
            raise ValueError(f"{self.folder / 'go.mod'} does not require {self.path}")
        return found[1]

    def source(self) -> Path:
        """Return the folder of its source, which built() has fetched."""
        return Path(run(str(GO), "-C", str(self.folder), "list", "-m", "-f", "{{.Dir}}", self.path).strip())

    def fetch(self, path: str) -> Path:
        """Return the folder of the source of a module that it requires, fetched if it is not there."""
        words = ("mod", "download", "-json", path)
        return Path(json.loads(run(str(GO), "-C", str(self.folder), *words, timeout=_PATIENCE))["Dir"])

    def flags(self) -> str:
        """Return the words for the linker."""
        words = ["-s", "-w"]
        if self.stamp:
            major, minor, _ = self.version.removeprefix("v").split(".")
            values = {"gitVersion": self.version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
            words += [f"-X {self.stamp}.{name}={value}" for name, value in values.items()]
        return " ".join(words)

    def build(self, name: str, place: Path) -> None:
        """Compile beside the place and move it there whole; CommandError quotes the compiler."""
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        verb = ("test", "-c") if name.endswith(".test") else ("build",)
        try:
            run(
                *("env", "CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOFLAGS=", str(GO), "-C", str(self.folder), *verb),
                *("-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", self.flags(), "-o", str(temporary)),
                f"{self.path}/{self.programs[name]}".rstrip("/"),
                timeout=_PATIENCE,
            )
            temporary.rename(place)
        finally:
            temporary.unlink(missing_ok=True)


_HERE = Path(__file__).parent

KUBERNETES = Module(
    folder=_HERE,
    path="k8s.io/kubernetes",
    programs={
        "kubelet": "cmd/kubelet",
        "kube-apiserver": "cmd/kube-apiserver",
        "kube-controller-manager": "cmd/kube-controller-manager",
        "kube-scheduler": "cmd/kube-scheduler",
        "kube-proxy": "cmd/kube-proxy",
        KUBECTL: "cmd/kubectl",
        AGNHOST: "test/images/agnhost",
        E2E: "test/e2e",
    },
    stamp="k8s.io/component-base/version",
)
DNS = Module(folder=_HERE / "coredns", path="github.com/coredns/coredns", programs={COREDNS: ""})
POLICIES = Module(
    folder=_HERE / "policies",
    path="sigs.k8s.io/kube-network-policies",
    programs={NETPOL: "cmd/kube-network-policies/standard"},
)


_HELM = Module(folder=_HERE / "helm", path="helm.sh/helm/v3", programs={HELM: "cmd/helm"})


def folder() -> Path:
    """Return where the programs are, or will be once built() has run."""
    return place_of("kubernetes", KUBERNETES, DNS)


def built(say: Callable[[str], None], *, tests: bool = False) -> Path:
    """Build what is missing, tell `say` of each, and return the folder; with or without E2E."""
    for module in (KUBERNETES, DNS):
        for name in module.programs:
            if tests or name != E2E:
                build_once(say, module, name, folder())
    return folder()


def renderers(say: Callable[[str], None]) -> dict[str, Path]:
    """Build kubectl and Helm alone if they are missing, tell `say` of each, and return them by name."""
    wanted = ((KUBERNETES, KUBECTL, folder()), (_HELM, HELM, place_of("helm", _HELM)))
    return {name: build_once(say, module, name, place) for module, name, place in wanted}


def place_of(name: str, *modules: Module, more: Sequence[Path] = ()) -> Path:
    """Return the folder of what is built from these modules, and more files; the first gives the version."""
    recipe = hashlib.sha256()
    for module in modules:
        for file in ("go.mod", "go.sum"):
            recipe.update((module.folder / file).read_bytes())
        recipe.update(module.flags().encode())
    for path in more:
        recipe.update(path.read_bytes())
    return CACHE / f"{name}-{modules[0].version}-{recipe.hexdigest()[:12]}"


def build_once(say: Callable[[str], None], module: Module, name: str, place: Path) -> Path:
    """Build a program if it is missing in this folder, tell `say` of it, and return where it is."""
    if not (place / name).exists():
        place.mkdir(parents=True, exist_ok=True)
        say(f"building {name} ({module.path} {module.version}) from source, once")
        module.build(name, place / name)
    return place / name
