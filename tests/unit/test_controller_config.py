# SPDX-License-Identifier: Apache-2.0
"""The controller's settings file: what it may say, and that wrong text is refused whole and quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import ControllerConfig
from ila.channel import target
from ila.settings import SettingsError, read

GOOD = """
listen = "[::1]:7443"
insecure = true
locator_pool = "fd00:c0de:1::/48"
closed_ports = [2379, 7443]

[domain]
sir_prefix = "fd00:10:244::/64"
locator_space = ["fd00:c0de::/32"]

[etcd]
endpoints = ["[::1]:2379"]
insecure = true
"""
TLS = 'certificate = "/c.pem"\nkey = "/c.key"\nclient_ca = "/ca.pem"'


def load(directory: Path, text: str) -> ControllerConfig:
    """Return the settings in a file of this text."""
    file = directory / "controller.toml"
    file.write_text(text)
    return read(ControllerConfig, file)


def test_good_settings(tmp_path: Path) -> None:
    """Settings are parsed into values; what is left out has its default."""
    config = load(tmp_path, GOOD)
    assert (config.listen, config.closed_ports, config.log) == ("[::1]:7443", (2379, 7443), "text")
    assert str(config.domain.sir_prefix) == "fd00:10:244::/64"
    assert str(config.locator_pool) == "fd00:c0de:1::/48"
    assert config.etcd.endpoints == ("[::1]:2379",)


def test_tls_off_loopback(tmp_path: Path) -> None:
    """With certificates it may listen anywhere."""
    text = GOOD.replace("insecure = true\nlocator", f"{TLS}\nlocator").replace('listen = "[::1]', 'listen = "[::]')
    assert load(tmp_path, text).client_ca == Path("/ca.pem")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            'listen = "[::1]:7443"',
            'listen = "[::]:7443"',
            r"insecure = true is for loopback only; listen = '\[::\]:7443'",
        ),
        ('listen = "[::1]:7443"', 'listen = "10.0.0.1:7443"', "loopback only"),
        ('listen = "[::1]:7443"', 'listen = "[::1]"', r"key 'listen': '\[::1\]'"),
        ('listen = "[::1]:7443"', 'listen = "[::1]:99999"', "key 'listen'"),
        ('listen = "[::1]:7443"', "", "key 'listen' is missing"),
        ('["[::1]:2379"]', '["[2001:db8::1]:2379"]', "'etcd'.*'\\[2001:db8::1\\]:2379' is not"),
        ('["[::1]:2379"]', "[]", "at least one endpoint"),
        ('["[::1]:2379"]', '["[::1]:2379", "127.0.0.1:2379"]', "give IPv6 addresses, or IPv4 addresses"),
        ("insecure = true\nlocator", "locator", "needs certificate, key and client_ca"),
        ("insecure = true\nlocator", f"insecure = true\n{TLS}\nlocator", "contradicts certificate"),
        ("fd00:10:244::/64", "fd00:10:244::/56", "'fd00:10:244::/56' is no /64"),
        ("fd00:10:244::/64", "fd00:c0de:9::/64", "overlaps the SIR prefix"),
        ('["fd00:c0de::/32"]', '["fd00:c0de::/65"]', "longer than /64"),
        ('["fd00:c0de::/32"]', "[]", "locator space is empty"),
        ('["fd00:c0de::/32"]', '"fd00:c0de::/32"', "must be a list of texts"),
        ("fd00:c0de:1::/48", "fd00:beef::/48", "locator_pool fd00:beef::/48 does not lie in the locator space"),
        ("fd00:c0de:1::/48", "fd00:c0de:1::/72", "'locator_pool': 'fd00:c0de:1::/72': must be a prefix of at most 64"),
        ("fd00:c0de:1::/48", "nonsense", "'locator_pool': 'nonsense'"),
        ("[2379, 7443]", "[0]", "must be a whole number from 1 to 65535"),
        ("[2379, 7443]", str(list(range(1, 18))), "at most 16 ports"),
        ("closed_ports", "closed_port", "key 'closed_port' is unknown"),
        ("[domain]", 'log = "xml"\n[domain]', "'log': 'xml': must be 'text' or 'json'"),
        ("[domain]", "[domain", "controller.toml"),
        ("[domain]", '[domain]\nchecksum_mode = "no-action"', "'no-action' is unknown"),
    ],
)
def test_wrong_settings(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """Each wrong setting is refused with the file, the key and the text."""
    assert old in GOOD
    with pytest.raises(SettingsError, match=reason) as refused:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert "controller.toml" in str(refused.value)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an error that names it."""
    with pytest.raises(SettingsError, match=r"none\.toml"):
        read(ControllerConfig, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        (("[::1]:1", "[2001:db8::1]:2"), "ipv6:[::1]:1,[2001:db8::1]:2"),
        (("127.0.0.1:1", "10.0.0.1:2"), "ipv4:127.0.0.1:1,10.0.0.1:2"),
        (("etcd.example:2379",), "dns:etcd.example:2379"),
    ],
)
def test_target_of_endpoints(endpoints: tuple[str, ...], expected: str) -> None:
    """Endpoints of one kind make one gRPC target."""
    assert target(endpoints) == expected


@pytest.mark.parametrize("endpoints", [("[::1]:1", "a:2"), ("a:1", "b:2")])
def test_endpoints_that_do_not_mix(endpoints: tuple[str, ...]) -> None:
    """Several names, or names and addresses, cannot be one target."""
    with pytest.raises(ValueError, match="or a single name"):
        target(endpoints)
