# SPDX-License-Identifier: Apache-2.0
"""What is said of a kernel that refuses the programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.kernel.bpf_object import kernel_words


@pytest.mark.parametrize(
    ("release", "btf", "words"),
    [
        ("6.1.0-18-amd64", True, "Linux 6.1.0-18-amd64"),
        ("5.15.0", True, "Linux 5.15.0, older than the 6.1 that ilanet needs"),
        ("6.12.1", False, "Linux 6.12.1, built without BTF (CONFIG_DEBUG_INFO_BTF): {btf} is not there"),
        ("strange", True, "Linux strange"),
    ],
)
def test_a_kernel_is_named_with_what_it_lacks(tmp_path: Path, release: str, btf: bool, words: str) -> None:  # noqa: FBT001
    """Its age, and its BTF, which is seen by a file of sysfs."""
    file = tmp_path / "vmlinux"
    if btf:
        file.touch()
    assert kernel_words(release, file) == words.format(btf=file)
