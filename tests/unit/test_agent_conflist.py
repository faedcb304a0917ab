# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.conflist import NAME, Conflist, remove
from agent.core.status import Status
from cni import spec
from tests.fakes import REGISTRATION, FakeDatapath


@dataclass
class Node:
    """A node whose runtime has every plugin."""

    folder: Path
    pool: ThreadPoolExecutor
    status: Status = field(default_factory=Status)
    datapath: FakeDatapath = field(default_factory=FakeDatapath)
    executable: Path | None = None
    replace: bool = False

    @property
    def path(self) -> Path:
        return self.folder / "net.d/10-ilanet.conflist"

    @property
    def types(self) -> list[str]:
        """The plugins that the file names."""
        return [plugin["type"] for plugin in json.loads(self.path.read_text())["plugins"]]

    def serve(self) -> None:
        self.status.registered(REGISTRATION)
        self.status.host_ready(mtu=1500)

    def conflist(self, *chain: str, sysctls: Mapping[str, str] | None = None) -> Conflist:
        return Conflist(
            path=self.path,
            replace=self.replace,
            chain=chain or ("portmap", "bandwidth"),
            sysctls=sysctls or {},
            plugins=self.folder,
            executable=self.executable,
            datapath=self.datapath,
            status=self.status,
            pool=self.pool,
        )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    for name in ("portmap", "bandwidth", "tuning"):
        (tmp_path / name).touch(0o755)
    with ThreadPoolExecutor(1) as pool:
        yield Node(tmp_path, pool)


async def test_it_is_written_when_the_agent_can_serve(node: Node) -> None:
    """Not sooner: a runtime with the file sends pods."""
    conflist = node.conflist()
    await conflist.step()
    assert not node.path.exists()
    node.serve()
    await conflist.step()
    assert node.types == ["ilanet", "portmap", "bandwidth"]
    assert [file.name for file in node.path.parent.iterdir()] == [node.path.name]


async def test_it_is_what_old_and_new_runtimes_read(node: Node) -> None:
    """A file that says only 1.1.0 breaks containerd 1.6; our own plugin reads what it is given of it."""
    node.serve()
    await node.conflist().step()
    tree = json.loads(node.path.read_text())
    assert tree["cniVersion"] == "1.0.0"
    assert tree["cniVersions"] == ["1.0.0", "1.1.0"]
    assert ["0.4.0", *tree["cniVersions"]] == list(spec.VERSIONS)
    given = {"cniVersion": tree["cniVersion"], "name": tree["name"], **tree["plugins"][0]}
    assert spec.parse_config(json.dumps(given).encode(), spec.Command.ADD).name == "ilanet"


@pytest.mark.parametrize(("chain", "left_out"), [(("tuning",), False), (("tuning", "bandwidth"), True)])
async def test_check_is_left_out_where_another_plugin_would_fail_it(
    node: Node, chain: tuple[str, ...], *, left_out: bool
) -> None:
    """Portmap's and bandwidth's do, for pods that are well."""
    node.serve()
    await node.conflist(*chain).step()
    assert json.loads(node.path.read_text())["disableCheck"] is left_out


async def test_tuning_is_told_what_to_set(node: Node) -> None:
    """And nobody else; its CHECK fails for pods that are well, so it is left out too."""
    node.serve()
    sysctls = {"net.core.somaxconn": "4096", "net.ipv6.conf.IFNAME.hop_limit": "33"}
    await node.conflist("tuning", "portmap", sysctls=sysctls).step()
    tree = json.loads(node.path.read_text())
    assert tree["plugins"][1] == {"type": "tuning", "sysctl": sysctls}
    assert ["sysctl" in plugin for plugin in tree["plugins"]] == [False, True, False]
    await node.conflist("tuning", sysctls=sysctls).step()
    assert json.loads(node.path.read_text())["disableCheck"] is True


async def test_it_is_written_again_only_if_it_is_not_as_it_should_be(node: Node) -> None:
    """A rename wakes every runtime; drift is mended."""
    node.serve()
    conflist = node.conflist()
    await conflist.step()
    first = node.path.stat().st_ino
    await conflist.step()
    assert node.path.stat().st_ino == first
    node.path.write_text("{}")
    await conflist.step()
    assert node.types[0] == "ilanet"
    node.path.unlink()
    await conflist.step()
    assert node.types[0] == "ilanet"


async def test_a_plugin_that_is_not_there_is_left_out_and_named(node: Node) -> None:
    """It would fail every pod of the node; once it is there, it is taken."""
    node.serve()
    (node.folder / "portmap").chmod(0o644)
    conflist = node.conflist("tuning", "portmap")
    await conflist.step()
    assert node.types == ["ilanet", "tuning"]
    assert "no executable" in node.status.problems["plugin portmap"]
    (node.folder / "portmap").chmod(0o755)
    await conflist.step()
    assert node.types == ["ilanet", "tuning", "portmap"]
    assert not node.status.problems


async def test_bandwidth_is_left_out_without_tcx(node: Node) -> None:
    """Its qdisc and ours cannot both be on a pod's device."""
    node.serve()
    node.datapath.tcx = False
    await node.conflist().step()
    assert node.types == ["ilanet", "portmap"]
    assert "kernel 6.6" in node.status.problems["plugin bandwidth"]


async def test_a_folder_that_takes_nothing_is_an_error(node: Node) -> None:
    """The loop shows it as a problem and tries again."""
    node.serve()
    (node.folder / "net.d").touch()
    with pytest.raises(OSError, match=r"net\.d"):
        await node.conflist().step()


async def test_it_is_removed_on_uninstall(node: Node) -> None:
    """Also when it is gone already."""
    node.serve()
    await node.conflist().step()
    remove(node.path, node.folder, None)
    remove(node.path, node.folder, None)
    assert list(node.path.parent.iterdir()) == []


async def test_another_network_that_comes_first_is_a_problem(node: Node) -> None:
    """It is left alone; one that comes after ours, once ours is there, or is no configuration, does not matter."""
    node.serve()
    await node.conflist().step()
    for name in ("20-other.conflist", "05-note.txt"):
        (node.path.parent / name).write_text("{}")
    await node.conflist().step()
    assert "runtime" not in node.status.problems
    first = node.path.parent / "05-other.conf"
    first.write_text("{}")
    await node.conflist().step()
    assert "05-other.conf comes before 10-ilanet.conflist" in node.status.problems["runtime"]
    assert (first.read_text(), node.path.exists()) == ("{}", True)
    first.unlink()
    await node.conflist().step()
    assert "runtime" not in node.status.problems


@pytest.mark.parametrize("name", ["05-other.conf", "10-kindnet.conflist", "100-crio-bridge.conflist", "9.json"])
async def test_a_network_that_is_there_already_is_left_alone(node: Node, name: str) -> None:
    """Whichever comes first: pods that run would not reach new ones.  It is said, until somebody removes it."""
    node.serve()
    node.path.parent.mkdir()
    theirs = node.path.parent / name
    theirs.write_text("{}")
    await node.conflist().step()
    assert [file.name for file in node.path.parent.iterdir()] == [name]
    assert f"{name} is the network of this node" in node.status.problems["runtime"]
    assert "replace_network = true" in node.status.problems["runtime"]
    theirs.unlink()
    await node.conflist().step()
    assert node.types[0] == "ilanet"
    assert "runtime" not in node.status.problems


@pytest.mark.parametrize(("name", "first"), [("20-other.conflist", False), ("05-other.conflist", True)])
async def test_a_network_is_replaced_if_the_operator_says_so(node: Node, name: str, *, first: bool) -> None:
    """Ours is written beside theirs; one that comes first is a problem still."""
    node.serve()
    node.replace = True
    node.path.parent.mkdir()
    (node.path.parent / name).write_text("{}")
    await node.conflist().step()
    assert node.types[0] == "ilanet"
    assert ("runtime" in node.status.problems) is first


async def test_ours_stays_once_it_is_there(node: Node) -> None:
    """With another beside it, and without the setting that wrote it, it is kept as it must be."""
    node.serve()
    await node.conflist().step()
    (node.path.parent / "20-other.conflist").write_text("{}")
    node.path.write_text("{}")
    await node.conflist().step()
    assert node.types[0] == "ilanet"


async def test_the_executable_is_put_among_the_plugins(node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By renaming, again when it is another, and taken away on uninstall; that of somebody else stays."""
    image = tmp_path_factory.mktemp("image") / "shim"
    image.write_bytes(b"one")
    node.executable = image
    node.serve()
    await node.conflist().step()
    put = node.folder / NAME
    first = put.stat()
    assert (put.read_bytes(), first.st_mode & 0o777) == (b"one", 0o755)
    await node.conflist().step()
    assert put.stat().st_ino == first.st_ino
    image.write_bytes(b"two")
    await node.conflist().step()
    assert (put.read_bytes(), put.stat().st_ino == first.st_ino) == (b"two", False)
    remove(node.path, node.folder, None)
    assert put.exists()
    remove(node.path, node.folder, image)
    assert not put.exists()
