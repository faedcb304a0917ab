# SPDX-License-Identifier: Apache-2.0
"""What the object's BTF says of hooks and verdicts (agent/bpf/abi.h); for the modules of agent/kernel only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from agent.kernel.btf import Btf


@dataclass(frozen=True, slots=True)
class VerdictNames:
    """Numbers by the names that metrics use."""

    hooks: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Number, and whether the packet ends there."""

    @classmethod
    def read(cls, btf: Btf) -> Self:
        """Read both enums: HOOK_<name> and VERDICT_<kind>_<name>, where the kind DROP ends a packet."""
        hooks = {name.removeprefix("HOOK_").lower(): number for name, number in btf.enumeration("hook").items()}
        verdicts = {}
        for constant, number in btf.enumeration("verdict").items():
            if constant.startswith("VERDICT_"):
                _, kind, name = constant.lower().split("_", 2)
                verdicts[name] = (number, kind == "drop")
        return cls(hooks, verdicts)
