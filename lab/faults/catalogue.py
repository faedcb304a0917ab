# SPDX-License-Identifier: Apache-2.0
"""Every kind of fault: the modules that make them are named here, and nowhere else."""

from __future__ import annotations

from lab.faults import kinds, members, runtimes
from lab.faults.kind import MADE

__all__ = ["KINDS", "kinds", "members", "runtimes"]

KINDS = tuple(MADE)
