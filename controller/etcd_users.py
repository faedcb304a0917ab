# SPDX-License-Identifier: Apache-2.0
"""Users and roles of an etcd that is ours: controllers may write under /ilanet/, agents read what they need of it."""

from __future__ import annotations

import grpc
from etcd3aio import _protobuf as etcd

from ila import mapping
from ila.certificates import AGENT, CONTROLLER
from ila.channel import PeerChannel
from ila.etcd import errors

_DEADLINE = 5.0
_ROOT = "root"
_DONE = ("already exists", "authentication is enabled")
"""What etcd says where a step was done before."""


async def set_up(channel: PeerChannel) -> None:
    """Make users and roles, and turn authentication on, as root; repeats safely; StoreError."""
    stub = etcd.AuthStub(channel.get())
    if not await _is_done(stub):
        await _make(stub)
    await _once(stub.AuthEnable, etcd.AuthEnableRequest())


async def _make(stub: etcd.AuthStub) -> None:
    first, after = mapping.READABLE_BY_AGENTS
    ours = b"/ilanet/"
    permissions = {
        CONTROLLER: etcd.Permission(permType=etcd.Permission.READWRITE, key=ours, range_end=mapping.range_end(ours)),
        AGENT: etcd.Permission(permType=etcd.Permission.READ, key=first, range_end=after),
    }
    for user in (_ROOT, *permissions):
        options = etcd.UserAddOptions(no_password=True)
        await _once(stub.RoleAdd, etcd.AuthRoleAddRequest(name=user))
        await _once(stub.UserAdd, etcd.AuthUserAddRequest(name=user, options=options))
        await _once(stub.UserGrantRole, etcd.AuthUserGrantRoleRequest(user=user, role=user))
        if user in permissions:
            request = etcd.AuthRoleGrantPermissionRequest(name=user, perm=permissions[user])
            await _once(stub.RoleGrantPermission, request)


async def _is_done(stub: etcd.AuthStub) -> bool:
    """Tell whether the last role has its permission: a step done again makes every client's next call fail once."""
    with errors():
        try:
            role = await stub.RoleGet(etcd.AuthRoleGetRequest(role=AGENT), timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            if "role name not found" in (error.details() or ""):
                return False
            raise
    return bool(role.perm)


async def _once(call: grpc.aio.UnaryUnaryMultiCallable[object, object], request: object) -> None:
    with errors():
        try:
            await call(request, timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            if not any(words in (error.details() or "") for words in _DONE):
                raise
