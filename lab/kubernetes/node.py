# SPDX-License-Identifier: Apache-2.0
"""One node of a lab Kubernetes: containerd, kubelet and kube-proxy inside a host's Machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lab.authority import Authority
from lab.cluster import Cluster
from lab.containerd import Containerd
from lab.fabric import Host
from lab.kubernetes.control import DNS_DOMAIN, ControlPlane
from lab.machine import make_cgroups
from lab.process import Process, stop_all

DNS_SERVICE = "fd00:10:96::a"
"""Of the Services' addresses the one where pods ask for names."""

LINKS = "ila"
"""How the host's ends of pods' links begin: what kube-proxy takes for pods, since their addresses tell no node."""

DETECT: Mapping[str, object] = {
    "detectLocal": {"interfaceNamePrefix": LINKS},
    "detectLocalMode": "InterfaceNamePrefix",
}

START_UP_TAINT = "ilanet.io/agent-not-ready"
"""Every node comes with it; ilanet's controller takes it off."""

PROXY_MODES = ("nftables", "iptables")


class KubernetesNode:
    """A host on which a kubelet runs pods; without a network of its own until ilanet is deployed."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        host: Host,
        control: ControlPlane,
        programs: Path,
        authority: Authority,
        evicting: bool = False,
    ) -> None:
        """Take the lab's cluster, which has the host, the control plane to join, and who signs certificates.

        evicting: the kubelet counts what pods write, and evicts those that write more than they may; the file system
        below it must be one that it knows.
        """
        self.host = host
        self.runtime = Containerd(cluster, host, bare=True)
        self.static = self.runtime.machine.disk / "static"
        """Where the kubelet finds pods of its own."""
        self._control = control
        self._programs = programs
        self._authority = authority
        self._evicting = evicting
        self._directory = cluster.directory
        self._processes: list[Process] = []

    def start(self, *, proxy_mode: str) -> None:
        """Start containerd, then the kubelet, which registers the node, and kube-proxy."""
        self.runtime.start_ready()
        make_cgroups(self.runtime.machine.cgroup)
        self._run("kubelet", self._kubelet())
        self.start_proxy(proxy_mode=proxy_mode)

    def start_proxy(self, *, proxy_mode: str, detect: Mapping[str, object] = DETECT) -> None:
        """Start kube-proxy, anew if it runs; `detect` says by what it tells pods from outsiders."""
        for process in [one for one in self._processes if one.name == f"{self.host.name}-kube-proxy"]:
            process.stop()
            self._processes.remove(process)
        self._run("kube-proxy", self._proxy(proxy_mode, detect))

    def power_off(self) -> None:
        """End everything at once, with all containers; the disk stays."""
        for process in self._processes:
            process.kill()
        self._processes.clear()
        self.runtime.kill()
        self.runtime.machine.stop(patience=0)

    def close(self) -> None:
        """End everything, with all containers."""
        stop_all(self._processes)
        self.runtime.close()

    def check(self) -> None:
        """Raise ProcessError if a process of the node has ended."""
        for process in (self.runtime, *self._processes):
            process.check()

    def _kubelet(self) -> dict[str, object]:
        name = self.host.name
        serving = self._authority.server(f"{name}-kubelet-server", names=[name, self.host.address])
        names = Path(self.runtime.machine.disk / "resolv.conf")
        names.write_text("")
        self.static.mkdir(exist_ok=True)
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "::",
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(serving.ca)}},
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.runtime.machine.cgroup,
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": DNS_DOMAIN,
            "containerRuntimeEndpoint": f"unix://{self.runtime.socket}",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "featureGates": {"KubeletInUserNamespace": True},
            "fileCheckFrequency": "5s",
            "imageGCHighThresholdPercent": 100,  # never: no registry could bring an image back when the disk was full
            "localStorageCapacityIsolation": self._evicting,
            "nodeStatusUpdateFrequency": "2s",
            "registerWithTaints": [{"key": START_UP_TAINT, "effect": "NoSchedule"}],
            "resolvConf": str(names),
            "staticPodPath": str(self.static),
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        }
        return {
            "config": self._write("kubelet", config),
            "hostname-override": name,
            "kubeconfig": self._control.kubeconfig(f"{name}-kubelet", user=f"system:node:{name}", group="system:nodes"),
            "node-ip": self.host.address,
        }

    def _proxy(self, mode: str, detect: Mapping[str, object]) -> dict[str, object]:
        name = self.host.name
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "bindAddress": "::",
            "clientConnection": {
                "kubeconfig": str(self._control.kubeconfig(f"{name}-kube-proxy", user="system:kube-proxy"))
            },
            "conntrack": {"maxPerCore": 0},
            **detect,
            "hostnameOverride": name,
            "mode": mode,
            "nodeIPOverride": [self.host.address],
        }
        return {"config": self._write("kube-proxy", config)}

    def _write(self, program: str, config: Mapping[str, object]) -> Path:
        path = self._directory / f"{self.host.name}-{program}.json"
        path.write_text(json.dumps(config, indent=1))
        return path

    def _run(self, program: str, flags: Mapping[str, object]) -> None:
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        command = (*self.runtime.machine.prefix, str(self._programs / program), *words)
        process = Process(name=f"{self.host.name}-{program}", command=command, directory=self._directory)
        self._processes.append(process)
        process.start()
