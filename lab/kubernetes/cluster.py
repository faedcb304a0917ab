# SPDX-License-Identifier: Apache-2.0
"""A whole Kubernetes with ilanet as its network, on namespaces; `python -m lab.kubernetes` brings one up or down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.authority import Authority
from lab.cluster import Cluster
from lab.fabric import Host, Shape
from lab.kubernetes.build_image import images
from lab.kubernetes.control import ControlPlane
from lab.kubernetes.enforcer import IMAGE as ENFORCER_IMAGE
from lab.kubernetes.enforcer import PLACE, enforcer
from lab.kubernetes.node import KubernetesNode
from lab.kubernetes.programs import AGNHOST, COREDNS, built
from lab.process import SOURCE, ProcessError, stop_noted

SYSTEM = "ilanet-system"
"""Namespace of ilanet itself."""

TEST_IMAGE = "localhost/ilanet/agnhost:1"
IMAGES = {TEST_IMAGE: AGNHOST, "localhost/ilanet/coredns:1": COREDNS}
"""Name and program: what test pods run, Kubernetes' own agnhost on a busybox, and the DNS server."""

_FIREWALL = """
table inet firewall {
  chain input { type filter hook input priority 0; policy accept; ct state invalid counter drop; }
  chain forward { type filter hook forward priority 0; policy accept; ct state invalid counter drop; }
  chain output { type filter hook output priority 0; policy accept; ct state invalid counter drop; }
}
"""

_DNS = Path(__file__).parent / "coredns.yaml"

_READY = 120.0
"""Seconds until every node must be Ready, on a loaded machine."""


class KubernetesCluster:
    """Nodes on the hosts of a lab cluster; start() brings all of it up, close() removes every trace."""

    def __init__(
        self,
        *,
        name: str = "kube",
        nodes: int = 3,
        proxy_mode: str = "nftables",
        deploy: Path = SOURCE / "deploy/own-etcd",
        control_planes: int = 1,
        firewall: bool = False,
        pod_mask: int = 64,
        evicting: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take how many nodes, all on one layer 2, as in kind; the control plane is on the first one's host.

        deploy: what of deploy/ is applied; control_planes: so many nodes are labelled as such.
        firewall: every node drops what conntrack calls invalid, as many hosts' firewalls do.
        pod_mask: bits of the prefix of each node's podCIDR.
        evicting: kubelets count what pods write on the disk, and evict those that write more than they may.
        """
        self.lab = Cluster(name=name, hosts=nodes, shape=Shape.LAYER2, own=("/etc", "/opt"), say=say)
        self.nodes: list[KubernetesNode] = []
        self._control: ControlPlane | None = None
        self.proxy_mode = proxy_mode
        self.deploy = deploy
        self._control_planes = control_planes
        self._firewall = firewall
        self._pod_mask = pod_mask
        self._evicting = evicting
        self._say = say

    @property
    def control(self) -> ControlPlane:
        """The control plane, once it has been started."""
        if self._control is None:
            raise ValueError("the control plane must be started first")
        return self._control

    def start(self) -> None:
        """Bring everything up and wait until every node is Ready."""
        self.begin()
        self.wait_ready()
        self._say("CoreDNS")
        self.kubectl("apply", "-f", str(_DNS))
        self.kubectl("rollout", "status", "deployment/coredns", "-n", "kube-system", f"--timeout={_READY}s")

    def begin(self) -> None:
        """Bring Kubernetes up and deploy ilanet on it, and leave open what comes of it."""
        programs = built(self._say)
        policies = enforcer(self._say)
        ours = images(self._say)
        self.lab.start_underlay()
        self.lab.fabric.open_outside(*self.lab.hosts)
        for host in self.lab.hosts:
            self._raise_firewall(host)
        authority = Authority(self.lab.directory / "kubernetes/authority")
        authority.create()
        self._say("etcd, API server, controller manager and scheduler, on host1")
        self._control = ControlPlane(
            host=self.lab.hosts[0],
            programs=programs,
            directory=self.lab.directory / "kubernetes",
            authority=authority,
            pod_mask=self._pod_mask,
        )
        self._control.start()
        self._say(f"containerd, kubelet and kube-proxy on {len(self.lab.hosts)} hosts, and their images")
        self.nodes = [
            KubernetesNode(
                cluster=self.lab,
                host=host,
                control=self._control,
                programs=programs,
                authority=authority,
                evicting=self._evicting,
            )
            for host in self.lab.hosts
        ]

        def start(node: KubernetesNode) -> None:
            node.start(proxy_mode=self.proxy_mode)
            for image, program in IMAGES.items():
                node.runtime.bring(image, programs / program)
            node.runtime.bring(ENFORCER_IMAGE, policies, place=PLACE)
            for image, archive in ours.items():
                node.runtime.take(archive, image)

        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(start, self.nodes))
        self._say(f"ilanet, as pods: kubectl apply -k {os.path.relpath(self.deploy, SOURCE)}")
        self.wait_ready(registered_only=True)
        for host in self.lab.hosts[: self._control_planes]:
            self.kubectl("label", "node", host.name, "node-role.kubernetes.io/control-plane=")
        self.kubectl("apply", "-k", str(self.deploy))

    def close(self) -> None:
        """End every process and container, and remove every namespace, mount and file; repeats safely."""
        for node in self.nodes:
            node.close()
        if self._control is not None:
            self._control.stop()
        stop_noted(self.lab.directory / "kubernetes")
        self.lab.close()

    def power_off(self) -> None:
        """Cut the power of every machine, the control plane's too: disks stay, nothing else does."""
        for node in self.nodes:
            node.power_off()
        self.control.stop()
        for host in self.lab.hosts:
            self.lab.fabric.power_off(host)

    def power_on(self) -> None:
        """Give it back to all at once, and wait until the API server answers."""
        for host in self.lab.hosts:
            self._switch_on(host)
        self.control.start()
        for node in self.nodes:
            node.start(proxy_mode=self.proxy_mode)

    def power_off_node(self, node: KubernetesNode) -> None:
        """Cut the power of one machine, which is not the control plane's."""
        node.power_off()
        self.lab.fabric.power_off(node.host)

    def power_on_node(self, node: KubernetesNode) -> None:
        """Give it back."""
        self._switch_on(node.host)
        node.start(proxy_mode=self.proxy_mode)

    def _switch_on(self, host: Host) -> None:
        self.lab.fabric.power_on(host)
        self.lab.fabric.open_outside(host)
        self._raise_firewall(host)

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl as the administrator (see ControlPlane.kubectl)."""
        return self.control.kubectl(*words, stdin=stdin, timeout=timeout)

    def _raise_firewall(self, host: Host) -> None:
        if self._firewall:
            host.namespace.run("nft", "-f", "-", stdin=_FIREWALL)

    def wait_ready(self, *, registered_only: bool = False) -> None:
        """Wait until every node is Ready, or has registered; ProcessError says which is not and why."""
        deadline = time.monotonic() + _READY
        while True:
            for node in self.nodes:
                node.check()
            waiting = {node.host.name: "it has not registered" for node in self.nodes}
            for item in json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]:
                ready = next(one for one in item["status"]["conditions"] if one["type"] == "Ready")
                if ready["status"] == "True" or registered_only:
                    waiting.pop(item["metadata"]["name"], None)
                else:
                    waiting[item["metadata"]["name"]] = ready["message"]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise ProcessError(f"after {_READY} s not Ready: {waiting}")
            time.sleep(0.2)
