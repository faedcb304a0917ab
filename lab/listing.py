# SPDX-License-Identifier: Apache-2.0
"""What a network namespace has that an agent may change: for tests and faults, which compare before and after."""

from __future__ import annotations

from lab.namespace import Namespace

_SYSCTLS = r"^net\.ipv6\.(conf|neigh|route)|^net\.ipv4\.(conf|neigh|ip_forward)"


def listing(namespace: Namespace) -> list[str]:
    """Return links, addresses, routes, rules, neighbours, qdiscs, programs and sysctls, without what counts or ages."""
    shown = [
        *namespace.run("sysctl", "-a", "-r", _SYSCTLS).splitlines(),
        *namespace.run("ip", "addr").splitlines(),
        *namespace.run("tc", "qdisc", "show").splitlines(),
        *namespace.run("nft", "list", "ruleset").splitlines(),
        *namespace.run("bpftool", "net", "show").splitlines(),
    ]
    for family in ("-4", "-6"):
        shown += namespace.run("ip", family, "route", "show", "table", "all").splitlines()
        shown += namespace.run("ip", family, "rule").splitlines()
        shown += namespace.run("ip", family, "neigh", "show", "nud", "permanent").splitlines()
    return [line for line in shown if "lft" not in line]
