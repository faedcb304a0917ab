# SPDX-License-Identifier: Apache-2.0
"""What a bench says of the machine it ran on."""

from __future__ import annotations

import platform

import pytest

from bench.results import _origin, cpu

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) @ 2.60GHz\nflags\t\t: fpu\n\n"
ARM64 = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (X86 + X86, "Intel(R) Xeon(R) @ 2.60GHz"),
        (ARM64 + ARM64, f"{platform.machine()}, CPU implementer 0x41, CPU part 0xd0c"),
        ("", platform.machine()),
    ],
)
def test_the_processor_has_a_name(text: str, name: str) -> None:
    """By its model on x86, by the numbers of maker and part on arm64, by the architecture at least."""
    assert cpu(text) == name


def test_this_machine_and_commit_are_named() -> None:
    """Whoever reads a number finds where it was measured."""
    origin = _origin()
    assert origin["machine"]
    assert origin["kernel"] == platform.release()
    assert len(str(origin["commit"])) == 40
