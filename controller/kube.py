# SPDX-License-Identifier: Apache-2.0
"""The API server: implements controller.core.kubernetes.Kubernetes; the one place that knows its client and errors."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
from kubernetes.aio import client, config, watch
from kubernetes.aio.client.exceptions import ApiException

from controller.core.kubernetes import Kind, KubernetesError, Lease, Listed, Review, parse_review
from ila.certificates import Authority

log = logging.getLogger("controller.kube")

_DEADLINE = 10.0
"""Seconds of a call."""

_WATCH = 240
"""Seconds after which the API server ends a watch, which then goes on in a new one."""

_PAGE = 500
"""Objects in an answer of a list."""

_AUTHORITY = "ilanet-ca"
"""Name of the Secret with the authority, and of the ConfigMap with what others check certificates by."""

_BUNDLE = "ca.crt"
_COMPONENT = "ilanet"
_MERGE = "application/strategic-merge-patch+json"


class KubernetesApi:
    """A connection to the API server, with the rights of the account that it runs as; to be closed."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self._core = client.CoreV1Api(api)
        self._leases = client.CoordinationV1Api(api)
        apps, networking = client.AppsV1Api(api), client.NetworkingV1Api(api)
        self._lists: dict[Kind, tuple[Any, str]] = {
            Kind.POD: (self._core, "list_pod_for_all_namespaces"),
            Kind.NODE: (self._core, "list_node"),
            Kind.STATEFUL_SET: (apps, "list_stateful_set_for_all_namespaces"),
            Kind.NETWORK_POLICY: (networking, "list_network_policy_for_all_namespaces"),
        }

    @classmethod
    async def connect(cls, kubeconfig: Path | None) -> Self:
        """Return one that uses a file, or, without, what a pod is given; KubernetesError says what is missing."""
        settings = client.Configuration()
        try:
            if kubeconfig is None:
                config.load_incluster_config(client_configuration=settings)
            else:
                await config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
        except config.ConfigException as error:
            raise KubernetesError(f"no access to Kubernetes: {error}") from error
        return cls(client.ApiClient(settings))

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    # --- what there is ---

    async def list(self, kind: Kind) -> Listed:
        """Return every object of a kind, as trees, and the version to watch from."""
        objects: list[Mapping[str, Any]] = []
        api, name = self._lists[kind]
        pages = getattr(api, f"{name}_without_preload_content")
        token = ""
        while True:
            with _errors(f"list of {kind.value}"):
                more = {"_continue": token} if token else {}
                tree = _checked(await _read(await pages(limit=_PAGE, _request_timeout=_DEADLINE, **more)))
            objects += tree["items"]
            token = tree["metadata"].get("continue", "")
            if not token:
                return Listed(objects, tree["metadata"]["resourceVersion"])

    async def watch(self, kind: Kind, version: str) -> AsyncGenerator[tuple[str, Mapping[str, Any]], None]:
        """Yield changes after a version, as (ADDED, MODIFIED, DELETED or BOOKMARK, tree), until the server ends it."""
        stream: Any = watch.Watch(return_type="object")
        api, name = self._lists[kind]
        try:
            with _errors(f"watch of {kind.value}"):
                events: AsyncIterator[Mapping[str, Any]] = stream.stream(
                    getattr(api, name),
                    resource_version=version,
                    allow_watch_bookmarks=True,
                    timeout_seconds=_WATCH,
                    _request_timeout=_WATCH + _DEADLINE,
                )
                async for event in events:
                    yield event["type"], event["raw_object"]
        finally:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await stream.close()

    # --- who asks ---

    async def review(self, token: str, audience: str) -> Review | None:
        """Return whose token it is; None if it is nobody's."""
        spec = client.V1TokenReviewSpec(token=token, audiences=[audience])
        with _errors("token review"):
            api = client.AuthenticationV1Api(self._api)
            ask = api.create_token_review_without_preload_content
            answer = await ask(client.V1TokenReview(spec=spec), _request_timeout=_DEADLINE)
            return parse_review(_checked(await _read(answer)), audience)

    # --- the authority ---

    async def read_authority(self, namespace: str) -> Authority | None:
        """Return the authority that a Secret holds; None if there is no such Secret."""
        with _errors(f"secret {namespace}/{_AUTHORITY}"):
            try:
                secret = await self._core.read_namespaced_secret(_AUTHORITY, namespace, _request_timeout=_DEADLINE)
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        found = secret.data or {}
        try:
            certificate, key = (_decoded(found[name]) for name in ("tls.crt", "tls.key"))
            return Authority.parse(certificate=certificate, key=key)
        except (KeyError, ValueError) as error:
            raise KubernetesError(f"secret {namespace}/{_AUTHORITY} is no authority: {error!r}") from error

    async def write_authority(self, namespace: str, authority: Authority) -> bool:
        """Make the Secret; False if somebody else was first."""
        secret = client.V1Secret(
            metadata=_metadata(_AUTHORITY),
            type="kubernetes.io/tls",
            string_data={"tls.crt": authority.certificate.decode(), "tls.key": authority.key.decode()},
        )
        with _errors(f"secret {namespace}/{_AUTHORITY}"):
            try:
                await self._core.create_namespaced_secret(namespace, secret, _request_timeout=_DEADLINE)
            except ApiException as error:
                if error.status == 409:
                    return False
                raise
        return True

    async def publish_authorities(self, namespace: str, bundle: str) -> None:
        """Make the ConfigMap say by what certificates are checked."""
        body = client.V1ConfigMap(metadata=_metadata(_AUTHORITY), data={_BUNDLE: bundle})
        with _errors(f"configmap {namespace}/{_AUTHORITY}"):
            try:
                await self._core.create_namespaced_config_map(namespace, body, _request_timeout=_DEADLINE)
            except ApiException as error:
                if error.status != 409:
                    raise
                present = await self._core.read_namespaced_config_map(_AUTHORITY, namespace)
                if (present.data or {}).get(_BUNDLE) != bundle:
                    await self._core.replace_namespaced_config_map(_AUTHORITY, namespace, body)

    # --- who leads ---

    async def read_lease(self, namespace: str, name: str) -> Lease | None:
        """Return a Lease; None if there is none."""
        with _errors(f"lease {namespace}/{name}"):
            try:
                found = await self._leases.read_namespaced_lease(name, namespace, _request_timeout=_DEADLINE)
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        version = found.metadata.resource_version if found.metadata else None
        return Lease((found.spec and found.spec.holder_identity) or "", version or "")

    async def write_lease(self, namespace: str, name: str, *, holder: str, seconds: int, after: str) -> bool:
        """Take or renew a Lease that is still at version `after` ('': there is none); False if it is not."""
        now = dt.datetime.now(dt.UTC)
        spec = client.V1LeaseSpec(holder_identity=holder, lease_duration_seconds=seconds, renew_time=now)
        metadata = _metadata(name)
        with _errors(f"lease {namespace}/{name}"):
            try:
                if after:
                    metadata.resource_version = after
                    lease = client.V1Lease(metadata=metadata, spec=spec)
                    await self._leases.replace_namespaced_lease(name, namespace, lease, _request_timeout=_DEADLINE)
                else:
                    lease = client.V1Lease(metadata=metadata, spec=spec)
                    await self._leases.create_namespaced_lease(namespace, lease, _request_timeout=_DEADLINE)
            except ApiException as error:
                if error.status == 409:
                    return False
                raise
        return True

    # --- what others are told ---

    async def network_available(self, node: str, why: str) -> None:
        """Clear a node's NetworkUnavailable condition."""
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "IlanetIsUp",
            "message": why,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        with _errors(f"condition of node {node}"):
            body = {"status": {"conditions": [condition]}}
            await self._core.patch_node_status(node, body, _content_type=_MERGE, _request_timeout=_DEADLINE)

    async def remove_taint(self, node: str, key: str) -> None:
        """Take the taints of that key off a node."""
        with _errors(f"taint of node {node}"):
            read = await self._core.read_node_without_preload_content(node, _request_timeout=_DEADLINE)
            tree = _checked(await _read(read))
            left = [taint for taint in tree["spec"].get("taints") or () if taint["key"] != key]
            body = {"metadata": {"resourceVersion": tree["metadata"]["resourceVersion"]}, "spec": {"taints": left}}
            await self._core.patch_node(node, body, _content_type=_MERGE, _request_timeout=_DEADLINE)

    async def event(self, about: Mapping[str, str], *, reason: str, message: str, warning: bool, reporter: str) -> None:
        """Write an Event about an object, given as a reference (kind, namespace, name, uid)."""
        now = dt.datetime.now(dt.UTC)
        namespace = about.get("namespace") or "default"
        body = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{about['name'][:200]}.", namespace=namespace),
            involved_object=client.V1ObjectReference(api_version="v1", **about),
            reason=reason,
            message=message[:1024],
            type="Warning" if warning else "Normal",
            source=client.V1EventSource(component=_COMPONENT, host=reporter),
            first_timestamp=now,
            last_timestamp=now,
            count=1,
        )
        with _errors(f"event about {about['kind']} {about['name']}"):
            await self._core.create_namespaced_event(namespace, body, _request_timeout=_DEADLINE)


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn what the client raises into KubernetesError."""
    try:
        yield
    except ApiException as error:
        raise KubernetesError(f"{what}: the API server says {error.status} {error.reason}") from error
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise KubernetesError(f"{what}: the API server does not answer: {str(error) or 'deadline exceeded'}") from error


async def _read(answer: Any) -> Any:  # noqa: ANN401 - a response of the client's HTTP library
    return json.loads(await answer.read())


def _checked(tree: Any) -> Any:  # noqa: ANN401 - a tree
    """Return an answer that is no failure: without preloading the client does not look."""
    if tree.get("kind") == "Status" and tree.get("status") == "Failure":
        raise ApiException(status=tree.get("code"), reason=tree.get("message"))
    return tree


def _decoded(text: bytes | str) -> bytes:
    return base64.b64decode(text, validate=True)


def _metadata(name: str) -> client.V1ObjectMeta:
    labels = {f"app.kubernetes.io/{key}": _COMPONENT for key in ("name", "part-of")}
    return client.V1ObjectMeta(name=name, labels=labels)
