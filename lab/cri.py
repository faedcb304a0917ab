# SPDX-License-Identifier: Apache-2.0
"""A client of the container runtime interface: asks a containerd as the kubelet does, over its socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

from build.cri import cri_pb2, cri_pb2_grpc
from lab.image import IMAGE

CALL_SECONDS = 60.0
"""How long one call may take: the kubelet gives a sandbox four minutes."""

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)


class CriError(Exception):
    """The runtime refused, or could not be asked; `away` says that it did not answer."""

    def __init__(self, text: str, *, away: bool) -> None:
        super().__init__(text)
        self.away = away


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """One try to run a pod, as the runtime lists it."""

    id: str
    uid: str
    attempt: int
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSetting:
    """What the kubelet says of a pod."""

    name: str
    uid: str
    cgroup: str
    """Parent of its cgroups."""

    annotations: dict[str, str] = field(default_factory=dict)

    def config(self, attempt: int = 0) -> Any:  # noqa: ANN401 - generated, without types
        """Return the sandbox's configuration."""
        return cri_pb2.PodSandboxConfig(
            metadata=cri_pb2.PodSandboxMetadata(name=self.name, uid=self.uid, namespace="default", attempt=attempt),
            hostname=self.name,
            annotations=self.annotations,
            linux=cri_pb2.LinuxPodSandboxConfig(cgroup_parent=self.cgroup),
        )


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command in a container printed, and how it ended."""

    exit_code: int
    output: str
    errors: str


class Cri:
    """Calls to one runtime; CriError for whatever goes wrong."""

    def __init__(self, *, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS)
        self._runtime = cri_pb2_grpc.RuntimeServiceStub(self._channel)
        self._images = cri_pb2_grpc.ImageServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    # --- the runtime ---

    def conditions(self) -> dict[str, str]:
        """Return what is not ready: RuntimeReady, NetworkReady; empty when all is well."""
        answer = self._call(self._runtime.Status, cri_pb2.StatusRequest())
        return {item.type: item.message for item in answer.status.conditions if not item.status}

    def has_image(self, name: str) -> bool:
        """Tell whether the runtime knows an image."""
        request = cri_pb2.ImageStatusRequest(image=cri_pb2.ImageSpec(image=name))
        return bool(self._call(self._images.ImageStatus, request).image.id)

    # --- sandboxes ---

    def run_sandbox(self, pod: PodSetting, attempt: int = 0) -> str:
        """Start a pod's sandbox, its network with it; return its id."""
        request = cri_pb2.RunPodSandboxRequest(config=pod.config(attempt))
        return str(self._call(self._runtime.RunPodSandbox, request).pod_sandbox_id)

    def stop_sandbox(self, sandbox: str) -> None:
        """Stop a sandbox and give its network back; repeats safely."""
        self._call(self._runtime.StopPodSandbox, cri_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox))

    def remove_sandbox(self, sandbox: str) -> None:
        """Forget a sandbox and its containers; repeats safely."""
        self._call(self._runtime.RemovePodSandbox, cri_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox))

    def sandboxes(self) -> list[Sandbox]:
        """Return every sandbox, stopped ones too."""
        answer = self._call(self._runtime.ListPodSandbox, cri_pb2.ListPodSandboxRequest())
        return [
            Sandbox(
                id=item.id,
                uid=item.metadata.uid,
                attempt=item.metadata.attempt,
                ready=item.state == cri_pb2.SANDBOX_READY,
            )
            for item in answer.items
        ]

    def address(self, sandbox: str) -> str:
        """Return the address that the runtime tells the kubelet; '' once the network is gone."""
        request = cri_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox)
        return str(self._call(self._runtime.PodSandboxStatus, request).status.network.ip)

    # --- containers ---

    def run_container(self, pod: PodSetting, sandbox: str, command: Sequence[str]) -> str:
        """Create and start a container in a sandbox; return its id."""
        config = cri_pb2.ContainerConfig(
            metadata=cri_pb2.ContainerMetadata(name="main"),
            image=cri_pb2.ImageSpec(image=IMAGE),
            command=command,
        )
        request = cri_pb2.CreateContainerRequest(pod_sandbox_id=sandbox, config=config, sandbox_config=pod.config())
        container = str(self._call(self._runtime.CreateContainer, request).container_id)
        self._call(self._runtime.StartContainer, cri_pb2.StartContainerRequest(container_id=container))
        return container

    def runs(self, container: str) -> bool:
        """Tell whether a container's process lives."""
        request = cri_pb2.ContainerStatusRequest(container_id=container)
        state = self._call(self._runtime.ContainerStatus, request).status.state
        return bool(state == cri_pb2.CONTAINER_RUNNING)

    def stop_container(self, container: str) -> None:
        """Kill a container's process."""
        self._call(self._runtime.StopContainer, cri_pb2.StopContainerRequest(container_id=container, timeout=0))

    def remove_container(self, container: str) -> None:
        """Forget a container."""
        self._call(self._runtime.RemoveContainer, cri_pb2.RemoveContainerRequest(container_id=container))

    def execute(self, container: str, *command: str, timeout: int = 20) -> Printed:
        """Run a command in a container and wait for its end, at most `timeout` seconds."""
        request = cri_pb2.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        answer = self._call(self._runtime.ExecSync, request)
        return Printed(answer.exit_code, answer.stdout.decode(), answer.stderr.decode())

    @staticmethod
    def _call(method: Any, request: Any) -> Any:  # noqa: ANN401 - generated, without types
        try:
            return method(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            away = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            raise CriError(f"{type(request).__name__}: {error.code().name}: {error.details()}", away=away) from error
