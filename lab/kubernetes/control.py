# SPDX-License-Identifier: Apache-2.0
"""The control plane of a lab Kubernetes: etcd, API server, controller manager and scheduler on one host, with TLS."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lab.authority import Authority
from lab.cluster import InHost
from lab.etcd import Place, endpoint
from lab.fabric import Host
from lab.namespace import CommandError, run
from lab.process import Process, ProcessError, stop_all

SERVICES = "fd00:10:96::/112"
"""Where the API server takes the Services' addresses from."""

API_SERVICE = "fd00:10:96::1"
"""The first of them: the API server's own."""

POD_CIDRS = "fd00:c0de::/48"
"""What the controller manager gives nodes a /64 of, each: their locators, where ilanet is told so."""

DNS_DOMAIN = "cluster.local"

_PORT = 6443
_ACCOUNTS = "kube-service-accounts"
"""File of the key that signs service accounts' tokens."""

_ETCD_PORTS = (12379, 12380)
_READY = 120.0
"""Seconds that a start may take on a loaded machine."""


class ControlPlane:
    """Everything that a cluster has once; the programs lie in one folder, what they write in another."""

    def __init__(
        self, *, host: Host, programs: Path, directory: Path, authority: Authority, pod_mask: int = 64
    ) -> None:
        """Take the host, whose address the API server announces, who signs every certificate, and podCIDRs' length."""
        self._pod_mask = pod_mask
        self._host = host
        self._programs = programs
        self._directory = directory
        self._authority = authority
        self._processes: list[Process] = []
        self._etcd = InHost(
            directory=directory / "etcd",
            places=[Place(host.address, host.namespace.prefix, *_ETCD_PORTS)],
            authority=authority,
            fast=True,
        )

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{endpoint(self._host.address, _PORT)}"

    @property
    def admin(self) -> Path:
        """The kubeconfig of who may do everything."""
        return self._directory / "admin.conf"

    @property
    def words(self) -> list[str]:
        """The words of the administrator's kubectl, which runs on the control plane's host."""
        return [*self._host.namespace.prefix, str(self._programs / "kubectl"), f"--kubeconfig={self.admin}"]

    def start(self) -> None:
        """Start everything and wait until the API server and the controllers behind it answer."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._etcd.start()
        self.kubeconfig("admin", user="kubernetes-admin", group="system:masters")
        self._start("kube-apiserver", self._api_server())
        self._wait("the API server", lambda: self.kubectl("get", "--raw", "/readyz") == "ok")
        self._start("kube-controller-manager", self._controller_manager())
        scheduler = self.kubeconfig("scheduler", user="system:kube-scheduler")
        self._start("kube-scheduler", {"kubeconfig": scheduler, "leader-elect": "false", "bind-address": "::1"})
        self._wait("the default service account", lambda: bool(self.kubectl("get", "serviceaccount", "default")))

    def stop(self) -> None:
        """End everything."""
        stop_all(self._processes)
        self._processes.clear()
        self._etcd.stop()

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl as the administrator and return what it prints; CommandError if it fails."""
        return run(*self.words, *words, stdin=stdin, timeout=timeout)

    def kubeconfig(self, file: str, *, user: str, group: str = "") -> Path:
        """Write FILE.conf for a client of the API server, with a certificate of its own, and return its path."""
        made = self._authority.client(f"kube-{file}", common_name=user, organization=group)
        path = self._directory / f"{file}.conf"
        cluster = {"server": self.server, "certificate-authority": str(made.ca)}
        client = {"client-certificate": str(made.certificate), "client-key": str(made.key)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": user, "user": client}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        }
        path.write_text(json.dumps(config, indent=1))
        return path

    def _api_server(self) -> Mapping[str, object]:
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DNS_DOMAIN}"]
        serving = self._authority.server("kube-apiserver", names=[*names, API_SERVICE, self._host.address, "::1"])
        etcd = self._authority.client("kube-apiserver-etcd", common_name="kube-apiserver-etcd")
        kubelet = self._authority.client(
            "kube-apiserver-kubelet", common_name="kube-apiserver-kubelet", organization="system:masters"
        )
        accounts = self._authority.client(_ACCOUNTS, common_name="service-accounts")
        return {
            "advertise-address": self._host.address,
            "allow-privileged": "true",
            "authorization-mode": "Node,RBAC",
            "bind-address": "::",
            "client-ca-file": serving.ca,
            "enable-admission-plugins": "NodeRestriction",
            "etcd-cafile": etcd.ca,
            "etcd-certfile": etcd.certificate,
            "etcd-keyfile": etcd.key,
            "etcd-servers": ",".join(f"https://{member}" for member in self._etcd.endpoints),
            "kubelet-certificate-authority": kubelet.ca,
            "kubelet-client-certificate": kubelet.certificate,
            "kubelet-client-key": kubelet.key,
            "kubelet-preferred-address-types": "InternalIP",
            "secure-port": _PORT,
            "service-account-issuer": f"https://kubernetes.default.svc.{DNS_DOMAIN}",
            "service-account-key-file": accounts.certificate,
            "service-account-signing-key-file": accounts.key,
            "service-cluster-ip-range": SERVICES,
            "tls-cert-file": serving.certificate,
            "tls-private-key-file": serving.key,
        }

    def _controller_manager(self) -> Mapping[str, object]:
        return {
            "allocate-node-cidrs": "true",
            "bind-address": "::1",
            "cluster-cidr": POD_CIDRS,
            "flex-volume-plugin-dir": self._directory / "volume-plugins",
            "kubeconfig": self.kubeconfig("controller-manager", user="system:kube-controller-manager"),
            "leader-elect": "false",
            "node-cidr-mask-size-ipv6": self._pod_mask,
            "root-ca-file": self._authority.ca,
            "service-account-private-key-file": self._authority.issued(_ACCOUNTS).key,
            "service-cluster-ip-range": SERVICES,
            "use-service-account-credentials": "true",
        }

    def _start(self, name: str, flags: Mapping[str, object]) -> None:
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        command = (*self._host.namespace.prefix, str(self._programs / name), *words)
        process = Process(name=name, command=command, directory=self._directory)
        self._processes.append(process)
        process.start()

    def _wait(self, what: str, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY
        while True:
            for process in self._processes:
                process.check()
            last = "it is not there"
            try:
                if there():
                    return
            except CommandError as error:
                last = str(error)
            if time.monotonic() > deadline:
                raise ProcessError(f"{what} does not answer after {_READY} s: {last}")
            time.sleep(0.1)
