# SPDX-License-Identifier: Apache-2.0
"""`ilanet`: the command line; wires the parts together, and is used by nobody."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.shell_completion import get_completion_class

from cli import render
from cli.cluster import Cluster, ClusterError, connected
from cli.connectivity.run import Settings, Summary, connectivity
from cli.connectivity.scenarios import Result
from cli.gather import gather
from cli.report import Report
from cli.status import judge
from cli.wait import until_well
from ila import VERSION

WELL, NOT_WELL, NOT_ASKED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses; the last is what shells make of Ctrl-C."""

TEST_IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.56"

_PAUSE = 2.0
"""Seconds between two looks of `status --wait`."""

T = TypeVar("T")


class Duration(click.ParamType[float]):
    """Seconds, as '90', '90s' or '2m'."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", str(value))
        if not found or float(found[1]) == 0:
            self.fail(f"{value!r} is no duration, such as 500ms, 90s or 2m", param, ctx)
        return float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[found[2] or "s"]


class Endpoint(click.ParamType[str]):
    """An address and a port, as '[2001:db8::1]:443'."""

    name = "address:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it was given."""
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})", str(value))
        if not found or not 0 < int(found[2]) < 65536:
            self.fail(f"{value!r} is not ADDRESS:PORT, such as [2001:db8::1]:443 or example.org:443", param, ctx)
        return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Which cluster is meant, and where ilanet is in it."""

    kubeconfig: str | None
    context: str | None
    namespace: str


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--kubeconfig", type=click.Path(), help="The file; else $KUBECONFIG, else ~/.kube/config.")
@click.option("--context", "context_name", help="The kubeconfig's context; else its current one.")
@click.option("--namespace", "-n", default="ilanet-system", show_default=True, help="Where ilanet runs.")
@click.version_option(VERSION, prog_name="ilanet")
@click.pass_context
def ilanet(ctx: click.Context, kubeconfig: str | None, context_name: str | None, namespace: str) -> None:
    """See and try ilanet, the network of a Kubernetes cluster, with nothing but a kubeconfig.

    \b
    Examples:
      ilanet status
      ilanet --context production status --wait
      ilanet connectivity test
      ilanet completion bash > /etc/bash_completion.d/ilanet
    """  # noqa: D301 - \b is click's own
    ctx.obj = Door(kubeconfig=kubeconfig, context=context_name, namespace=namespace)


_output = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form."
)


@ilanet.command()
@click.option("--wait", is_flag=True, help="Look again until all is well.")
@click.option("--timeout", type=Duration(), default="120s", show_default=True, help="Of --wait.")
@click.option("--deadline", type=Duration(), default="5s", show_default=True, help="Of each pod's answer.")
@_output
@click.pass_obj
def status(door: Door, *, wait: bool, timeout: float, deadline: float, output: str) -> None:
    """Show nodes, agents, controllers, etcd and the links between nodes, and what to do where something is wrong.

    \b
    Exit status: 0 all is well, 1 it is not, 2 the cluster could not be asked.
    It needs to list nodes, and in ilanet's namespace to list pods and to get pods/proxy (and pods/log).
    JSON: kind, version, well, namespace, nodes, controllers, etcd, links, findings (cli/report.py has each field).

    \b
    Examples:
      ilanet status
      ilanet status --wait --timeout 5m && ilanet connectivity test
      ilanet status -o json | jq -r '.findings[] | .about[0] + ": " + .what'
    """  # noqa: D301 - \b is click's own

    async def ask(cluster: Cluster) -> Report:
        async def look() -> Report:
            return judge(await gather(cluster, door.namespace, deadline=deadline))

        if not wait:
            return await look()
        return await until_well(look, timeout=timeout, pause=_PAUSE, say=lambda what: _say(f"waiting: {what}"))

    report = _run(door, ask)
    if output == "json":
        click.echo(render.as_json("status", report))
    else:
        click.echo("\n".join(render.status_lines(report)))
    sys.exit(WELL if report.well else NOT_WELL)


@ilanet.group(name="connectivity")
def connectivity_group() -> None:
    """Try the network with pods of its own.

    \b
    Example:
      ilanet connectivity test
    """  # noqa: D301 - \b is click's own


@connectivity_group.command()
@click.option("--image", default=TEST_IMAGE, show_default=True, help="Test image; it must hold agnhost, sh and nc.")
@click.option("--outside", type=Endpoint(), help="An ADDRESS:PORT outside of the cluster that must answer to pods.")
@click.option("--node", "nodes", multiple=True, help="Only this node; may be repeated.  Else all that are Ready.")
@click.option("--patience", type=Duration(), default="60s", show_default=True, help="Of each test.")
@click.option("--keep", is_flag=True, help="Leave namespace and pods for a look at them.")
@_output
@click.pass_obj
def test(
    door: Door, *, image: str, outside: str | None, nodes: tuple[str, ...], patience: float, keep: bool, output: str
) -> None:
    """Deploy pods in a namespace of their own, let them reach each other in every way, and remove them.

    \b
    Exit status: 0 all passed, 1 something failed, 2 the test could not be made, 130 Ctrl-C.
    It needs to create namespaces, and in them pods, Services and StatefulSets, and exec; and to list nodes.
    JSON: kind, version, well, namespace, nodes, results (test, outcome, seconds, reason), left.

    \b
    Examples:
      ilanet connectivity test
      ilanet connectivity test --node worker-1 --node worker-2 --keep
      ilanet connectivity test --outside '[2606:4700:4700::1111]:443' -o json
    """  # noqa: D301 - \b is click's own
    settings = Settings(image=image, outside=outside, nodes=nodes, patience=patience, keep=keep)

    def show(result: Result) -> None:
        if output == "table":
            click.echo(render.result_line(result))

    async def ask(cluster: Cluster) -> Summary:
        return await connectivity(cluster, settings, show=show, say=_say)

    summary = _run(door, ask)
    if output == "json":
        click.echo(render.as_json("connectivity", summary))
    else:
        click.echo(render.summary_line(summary))
    sys.exit(WELL if summary.well else NOT_WELL)


@ilanet.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that lets a shell complete this command.

    \b
    Examples:
      source <(ilanet completion bash)
      ilanet completion zsh > "${fpath[1]}/_ilanet"
      ilanet completion fish > ~/.config/fish/completions/ilanet.fish
    """  # noqa: D301 - \b is click's own
    made = get_completion_class(shell)
    if made is None:  # pragma: no cover - click has all three
        raise click.UsageError(f"no completion for {shell}")
    click.echo(made(ilanet, {}, "ilanet", "_ILANET_COMPLETE").source())


def _say(text: str) -> None:
    click.echo(text, err=True)


def _run(door: Door, work: Callable[[Cluster], Awaitable[T]]) -> T:
    """Return what work with the cluster gives; end the program where that cannot be had."""

    async def all_of_it() -> T:
        async with connected(door.kubeconfig, door.context) as cluster:
            return await work(cluster)

    try:
        return asyncio.run(_interruptible(all_of_it()))
    except ClusterError as error:
        _say(f"error: {error}")
        sys.exit(NOT_ASKED)
    except asyncio.CancelledError:
        _say("interrupted")
        sys.exit(INTERRUPTED)


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Cancel the work at the first Ctrl-C or SIGTERM, so that it undoes what it did; a second one ends at once."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        task.cancel()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return await task


def main() -> None:
    """Run the command line."""
    ilanet(prog_name="ilanet")


if __name__ == "__main__":
    main()
