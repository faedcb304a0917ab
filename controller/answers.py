# SPDX-License-Identifier: Apache-2.0
"""How a call of gRPC ends: what our errors are as status codes; for the controller's two faces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

import grpc

from controller.core.decision import Reason, Refused
from controller.core.kubernetes import KubernetesError
from controller.standing import Standing
from ila.mapping import RecordError
from ila.store import StoreError

log = logging.getLogger("controller.server")

T = TypeVar("T")
Context = grpc.aio.ServicerContext[object, object]

_CODES = {
    Reason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NOT_YOURS: grpc.StatusCode.PERMISSION_DENIED,
    Reason.TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    Reason.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NOT_NOW: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MISCONFIGURED: grpc.StatusCode.UNAVAILABLE,
}
"""A misconfigured replica is like none at all: another one may answer."""


async def answered(call: str, node: str, context: Context, standing: Standing, answer: Awaitable[T]) -> T:
    """Return the answer, or end the call with the status that fits."""
    with standing.call(call) as ended:
        try:
            return await answer
        except Refused as error:
            code, message = _CODES[error.reason], str(error)
        except RecordError as error:
            log.exception("%s of node=%s met a broken record", call, node)
            code, message = grpc.StatusCode.INTERNAL, str(error)
        except (StoreError, KubernetesError) as error:
            code, message = grpc.StatusCode.UNAVAILABLE, str(error)
        except ValueError as error:
            code, message = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except asyncio.CancelledError:
            ended.outcome = grpc.StatusCode.CANCELLED.name.lower()
            raise
        except Exception:
            log.exception("%s of node=%s failed", call, node)
            code, message = grpc.StatusCode.INTERNAL, "the controller failed; its log says why"
        ended.outcome = code.name.lower()
    log.warning("%s of node=%s ended: %s: %s", call, node, code.name, message, extra={"node": node})
    return await context.abort(code, message)
