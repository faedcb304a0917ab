# SPDX-License-Identifier: Apache-2.0
"""The API server asks a webhook that runs in a pod."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from lab.authority import Authority
from lab.namespace import CommandError
from tests.cluster.kubectl import Kubectl, deployment, eventually, pod_spec

pytestmark = pytest.mark.timeout(300)

PORT = 8443


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_the_api_server_reaches_a_webhook(kube: Kubectl, tmp_path: Path) -> None:
    """By its Service, from the control plane's host, with TLS: what the webhook refuses is refused in its words."""
    authority = Authority(tmp_path)
    authority.create()
    name = f"hook.{kube.namespace}.svc"
    made = authority.server("hook", names=[name])
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hook"},
        "data": {"tls.crt": encoded(made.certificate), "tls.key": encoded(made.key)},
    }
    spec = pod_spec()
    spec["volumes"] = [{"name": "tls", "secret": {"secretName": "hook"}}]
    (container,) = spec["containers"]
    container |= {
        "args": ["webhook", "--tls-cert-file=/tls/tls.crt", "--tls-private-key-file=/tls/tls.key", f"--port={PORT}"],
        "readinessProbe": {"httpGet": {"scheme": "HTTPS", "path": "/readyz", "port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
    }
    hook = deployment("hook", replicas=1)
    hook["spec"]["template"]["spec"] = spec
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hook"},
        "spec": {"selector": {"app": "hook"}, "ports": [{"port": 443, "targetPort": PORT}]},
    }
    kube.apply(secret, hook, service)
    kube.ready("hook", 1)
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": kube.namespace},
        "webhooks": [
            {
                "name": "deny.ilanet.io",
                "rules": [rule],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kube.namespace}},
                "clientConfig": {
                    "service": {"name": "hook", "namespace": kube.namespace, "path": "/always-deny"},
                    "caBundle": encoded(made.ca),
                },
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": 5,
            }
        ],
    }
    kube.apply(configuration)
    try:

        def refused() -> None:
            with pytest.raises(CommandError, match="this webhook denies all requests"):
                kube("create", "configmap", "asked", "--dry-run=server")

        eventually(refused)
    finally:
        kube("delete", "validatingwebhookconfiguration", kube.namespace)
