# SPDX-License-Identifier: Apache-2.0
"""Which tests stay together: two processes share the two cores (pytest-xdist), and much of a test is waiting."""

from __future__ import annotations

from collections.abc import Generator

import pytest

SHARED = ("cluster", "net", "routed", "stack")
"""Parameters that name a cluster which tests of several files use, one after the other."""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Keep in one process what shares a cluster, a virtual machine or a file; UsageError if xdist does not heed it."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        shared = [f"{name} {parameters[name]}" for name in SHARED if isinstance(parameters.get(name), str)]
        place = "vm" if item.path.parent.name == "vm" else item.path.name
        item.add_marker(pytest.mark.xdist_group(shared[0] if shared else place))
    items.sort(key=lambda item: item.path.parent.name != "vm")  # the longest of all begins first
    yield
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in items):
        raise pytest.UsageError("pytest-xdist does not know the groups of tests: is it made for this pytest?")
