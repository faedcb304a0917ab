# SPDX-License-Identifier: Apache-2.0
"""Writes mappings straight into etcd, as a process in the namespace of etcd's host; for bench/load.py.

python -m bench.fill CERTIFICATES ENDPOINT FIRST LAST SHIFT

Mappings FIRST to LAST, number N at locator N + SHIFT of a thousand.  Without compares: lab/mappings.py writes only
what is not there yet, here mappings change too.
Prints when it began and ended (seconds of time.monotonic) and etcd's revision after it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from etcd3aio.kv import KVService

from ila import mapping
from ila.address import Locator
from ila.certificates import CONTROLLER
from ila.channel import PeerChannel
from ila.etcd import OPERATIONS
from ila.settings import Peer
from lab import etcd as lab_etcd
from lab.cluster import DOMAIN
from lab.mappings import identifiers

NODES = 1000
"""Locators that the mappings are spread over."""

PARALLEL = 8
DEADLINE = 20.0


async def fill(peer: Peer, first: int, last: int, shift: int) -> tuple[float, float, int]:
    """Write the mappings; return when it began, when it ended, and the highest revision."""
    base = int(DOMAIN.locator_space[0].network_address) >> 64
    values = [mapping.encode_mapping(Locator(base + 0x1000 + number)) for number in range(NODES)]
    keys = [mapping.mapping_key(identifier) for identifier in identifiers(last)[first:]]
    starts = iter(range(0, len(keys), OPERATIONS))
    channel = PeerChannel(peer=peer)
    kv = KVService(channel.get())
    revisions = [0]

    async def work() -> None:
        for start in starts:
            batch = enumerate(keys[start : start + OPERATIONS], start=first + start + shift)
            puts = [KVService.txn_op_put(key, values[number % NODES]) for number, key in batch]
            answer = await kv.txn([], puts, timeout=DEADLINE)
            revisions.append(answer.header.revision)

    begin = time.monotonic()
    await asyncio.gather(*(work() for _ in range(PARALLEL)))
    end = time.monotonic()
    await channel.close()
    return begin, end, max(revisions)


def main() -> None:
    """Run the command line."""
    directory, endpoint, first, last, shift = sys.argv[1:]
    place = Path(directory)
    peer = Peer(
        endpoints=(endpoint,),
        authority=lab_etcd.NAME,
        ca=place / "ca.pem",
        certificate=place / f"{CONTROLLER}.pem",
        key=place / f"{CONTROLLER}.key",
    )
    print(*asyncio.run(fill(peer, int(first), int(last), int(shift))))


if __name__ == "__main__":
    main()
