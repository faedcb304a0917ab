# SPDX-License-Identifier: Apache-2.0
"""kubectl and Helm, built from source: what deploy/ is rendered with."""

from __future__ import annotations

import pytest

from lab.kubernetes.programs import renderers as built_renderers
from tests.deploy.manifests import FOLDERS, Renderers, Tree


@pytest.fixture(scope="session")
def renderers() -> Renderers:
    """Build them if they are missing; `make check-deploy` has, since that takes minutes."""
    return Renderers(built_renderers(print))


@pytest.fixture(params=FOLDERS)
def objects(request: pytest.FixtureRequest, renderers: Renderers) -> list[Tree]:
    """Everything that one overlay deploys."""
    return renderers.kustomize(FOLDERS[request.param])
