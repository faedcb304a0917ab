# SPDX-License-Identifier: Apache-2.0
"""Fills an etcd with made-up mappings, fast: for benches and tests of large clusters."""

from __future__ import annotations

import asyncio

from ila import mapping
from ila.address import Identifier, Locator
from ila.etcd import OPERATIONS
from ila.store import Store, Transaction

_FIRST_IDENTIFIER = 1 << 61 | 1 << 40
"""The made-up identifiers follow this one; none is likely to be drawn at random."""


def identifiers(count: int) -> list[Identifier]:
    """Return the first `count` made-up identifiers: low 16 bits never zero."""
    return [Identifier(_FIRST_IDENTIFIER + (number // 65535 << 16 | number % 65535 + 1)) for number in range(count)]


async def fill(store: Store, *, count: int, locators: list[Locator], parallel: int = 8) -> None:
    """Write `count` mappings, spread over the locators; those that are there already stay as they are."""
    values = [mapping.encode_mapping(locator) for locator in locators]
    keys = [mapping.mapping_key(identifier) for identifier in identifiers(count)]
    starts = iter(range(0, count, OPERATIONS))

    async def work() -> None:
        for start in starts:
            batch = keys[start : start + OPERATIONS]
            puts = {key: values[(start + number) % len(values)] for number, key in enumerate(batch)}
            await store.commit(Transaction({batch[0]: 0}, puts))

    await asyncio.gather(*(work() for _ in range(parallel)))
