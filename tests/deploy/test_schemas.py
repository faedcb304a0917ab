# SPDX-License-Identifier: Apache-2.0
"""Every object against the OpenAPI of the Kubernetes that the test cluster runs; unknown fields are errors."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import pytest

from lab.kubernetes.programs import KUBERNETES
from tests.deploy.manifests import Tree, key

CUSTOM = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}
"""What Kubernetes does not know: the server's dry run checks it where its operator is installed."""


@cache
def _schemas(api_version: str) -> dict[str, Any]:
    """Return the schemas of one group and version, in which an object has no other fields than those named."""
    path = f"apis/{api_version}" if "/" in api_version else f"api/{api_version}"
    file = KUBERNETES.source() / f"api/openapi-spec/v3/{path.replace('/', '__')}_openapi.json"
    schemas: dict[str, Any] = json.loads(file.read_text())["components"]["schemas"]
    for schema in schemas.values():
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    return schemas


def _validator(tree: Tree) -> jsonschema.Draft4Validator:
    group, _, version = tree["apiVersion"].rpartition("/")
    wanted = {"group": group, "version": version, "kind": tree["kind"]}
    schemas = _schemas(tree["apiVersion"])
    [name] = [name for name, schema in schemas.items() if wanted in schema.get("x-kubernetes-group-version-kind", [])]
    return jsonschema.Draft4Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def test_every_object(objects: list[Tree]) -> None:
    """The API server would understand every field."""
    for tree in objects:
        if tree["apiVersion"] not in CUSTOM:
            errors = [f"{error.json_path}: {error.message}" for error in _validator(tree).iter_errors(tree)]
            assert errors == [], key(tree)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"spec": {"replica": 1}}, "$.spec"),
        ({"spec": {"replicas": "two"}}, "$.spec.replicas"),
        ({"spec": {"template": {"spec": {"hostNetworks": True}}}}, "$.spec.template.spec"),
    ],
)
def test_faults_are_seen(change: Tree, where: str) -> None:
    """The check is not one that lets everything pass."""
    tree = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, **change}
    assert where in {error.json_path for error in _validator(tree).iter_errors(tree)}
