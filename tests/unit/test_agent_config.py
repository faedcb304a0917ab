# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import AgentConfig
from agent.core.datapath import HostPath
from ila.settings import SettingsError, read

GOOD = """
node = "host1"
address = "fd00:a::1"
underlay = ["eth0"]
[controller]
endpoints = ["[::1]:7443"]
insecure = true
[etcd]
endpoints = ["[::1]:2379"]
insecure = true
"""

TUNED = 'node = "host1"\ncni_chain = ["tuning"]\ncni_sysctls = [{}]'
"""Lines that set sysctls of pods."""


def parsed(tmp_path: Path, text: str) -> AgentConfig:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    return read(AgentConfig, file)


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    """What is not said has the documented default."""
    config = parsed(tmp_path, GOOD)
    assert config.host_path is HostPath.STACK
    assert config.next_hop == "auto"
    assert config.bpf_directory == Path("/sys/fs/bpf/ilanet")


def test_sysctls_of_pods(tmp_path: Path) -> None:
    """Written as in sysctl.conf, blanks about the first equals sign or not; a value may have blanks of its own."""
    text = TUNED.format('"net.core.somaxconn = 4096", "net.ipv4.tcp_rmem=4096 1 2", "net.ipv6.conf.IFNAME.x=a=b"')
    assert dict(parsed(tmp_path, GOOD.replace('node = "host1"', text)).cni_sysctls) == {
        "net.core.somaxconn": "4096",
        "net.ipv4.tcp_rmem": "4096 1 2",
        "net.ipv6.conf.IFNAME.x": "a=b",
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('node = "host1"', "", "key 'node' is missing"),
        ('node = "host1"', 'node = "Host_1"', "'Host_1'"),
        ('node = "host1"', f'node = "{"n" * 300}"', "253"),
        ('node = "host1"', 'node = "a/b"', "'a/b'"),
        ('node = "host1"', "node = 7", "key 'node': 7"),
        ('address = "fd00:a::1"', 'address = "10.0.0.1"', "10.0.0.1"),
        ('underlay = ["eth0"]', 'underlay = ["eth0/../x"]', "eth0/../x"),
        ('underlay = ["eth0"]', 'underlay = "eth0"', "list of texts"),
        ('node = "host1"', 'node = "host1"\nlocator = "fd00:c0de::/48"', "no /64"),
        ('node = "host1"', 'node = "host1"\nhost_path = "fast"', "'stack' or 'bpf'"),
        ('node = "host1"', 'node = "host1"\nnext_hop = "magic"', "'magic'"),
        ('node = "host1"', 'node = "host1"\nreject_mark = 0', "reject_mark"),
        ('node = "host1"', 'node = "host1"\nstate_directory = "var/lib"', "absolute"),
        ('node = "host1"', 'node = "host1"\nhttp = "nowhere"', "'nowhere'"),
        ('node = "host1"', 'node = "host1"\nresync = -1', "resync"),
        ('node = "host1"', 'node = "host1"\ncni_chain = ["portmap", "portmap"]', "at most once"),
        ('node = "host1"', 'node = "host1"\ncni_chain = ["bridge"]', "portmap, bandwidth, tuning"),
        ('node = "host1"', 'node = "host1"\ncni_sysctls = ["net.core.somaxconn=1"]', "'tuning' in cni_chain"),
        ('node = "host1"', TUNED.format('"kernel.pid_max=9"'), "'kernel.pid_max=9' is not 'net.NAME=VALUE'"),
        ('node = "host1"', TUNED.format('"net./../kernel/pid_max=9"'), "'net./../kernel/pid_max=9' is not"),
        ('node = "host1"', TUNED.format('"net.core.somaxconn"'), "'net.core.somaxconn' is not"),
        ('node = "host1"', TUNED.format('"net.core.somaxconn="'), "'net.core.somaxconn=' is not"),
        ('node = "host1"', TUNED.format('"net.core.somaxconn=1\\n2"'), "is not 'net.NAME=VALUE'"),
        ('node = "host1"', TUNED.format('"net.a=1", "net.a = 2"'), "'net.a' is there twice"),
        ('node = "host1"', TUNED.format("4096"), "key 'cni_sysctls': [4096]: must be a list of texts"),
        ('node = "host1"', 'node = "host1"\ncni_config = "net.d/x"', "absolute"),
        ('node = "host1"', 'node = "host1"\nunknown_key = 1', "'unknown_key' is unknown"),
        ('["[::1]:2379"]', '["[fd00::1]:2379"]', "loopback only"),
        ("insecure = true\n[etcd]", "[etcd]", "needs authority"),
        ('["[::1]:7443"]', "[]", "at least one endpoint"),
        ("[controller]", "[controller", "agent.toml"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path: Path, old: str, new: str, words: str) -> None:
    """Each wrong setting names the file, the key and the text; nothing is started with half a configuration."""
    assert old in GOOD
    with pytest.raises(SettingsError) as caught:
        parsed(tmp_path, GOOD.replace(old, new))
    assert words in str(caught.value)
    assert "agent.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing file is an error that names it."""
    with pytest.raises(SettingsError, match=r"nothing\.toml"):
        read(AgentConfig, tmp_path / "nothing.toml")
