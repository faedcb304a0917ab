# SPDX-License-Identifier: Apache-2.0
"""What etcd's refusals mean: whose fault it was, and whether asking again helps."""

from __future__ import annotations

import json
import logging
import sys

import grpc
import pytest
from etcd3aio import EtcdConnectionError, EtcdPermissionDeniedError

from ila.etcd import errors, translated
from ila.log import JsonLines
from ila.mapping import Generation
from ila.store import StoreCompacted, StoreError, StoreRefused, StoreUnavailable, StoreWentBack


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("UNAVAILABLE", "etcdserver: leader changed", StoreUnavailable),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", StoreUnavailable),
        ("INTERNAL", "Internal error from Core", StoreUnavailable),
        ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", StoreUnavailable),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", StoreUnavailable),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", StoreCompacted),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision", StoreRefused),
        ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request", StoreRefused),
        ("PERMISSION_DENIED", "etcdserver: permission denied", StoreRefused),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", StoreRefused),
    ],
)
def test_status_of_etcd(code: str, details: str, kind: type[StoreError]) -> None:
    """Each status becomes the error whose name says what to do, with etcd's own words."""
    error = translated(grpc.StatusCode[code], details)
    assert type(error) is kind
    assert details in str(error)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (EtcdConnectionError("refused"), StoreUnavailable),
        (TimeoutError(), StoreUnavailable),
        (EtcdPermissionDeniedError("denied"), StoreRefused),
        (FileNotFoundError("ca.pem"), StoreUnavailable),
    ],
)
def test_exceptions_on_the_way(raised: Exception, kind: type[StoreError]) -> None:
    """What the client, the clock and the files raise is turned into our errors, cause chained."""
    with pytest.raises(kind) as caught, errors():
        raise raised
    assert caught.value.__cause__ is raised


def test_store_that_went_back_says_from_where_to_where() -> None:
    """The error names both generations."""
    error = StoreWentBack(seen=Generation(2, 90), found=Generation(2, 40))
    assert str(error) == "etcd went back: it is at generation 2/40, and 2/90 has been seen before"


def test_json_log_lines() -> None:
    """A JSON line holds level, logger and message, and the traceback of an error."""
    try:
        raise ValueError("wrong")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "", 0, "did %s", ("it",), sys.exc_info())
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["logger"], line["message"]) == ("error", "a.b", "did it")
    assert "ValueError: wrong" in line["traceback"]


def test_json_log_lines_say_what_they_are_about() -> None:
    """Node and pod have fields of their own where there is one."""
    record = logging.LogRecord("a", logging.INFO, "", 0, "added", (), None)
    assert {"node", "pod"}.isdisjoint(json.loads(JsonLines().format(record)))
    assert json.loads(JsonLines(node="n1").format(record))["node"] == "n1"
    record.pod, record.node = "ns/web", "n2"
    line = json.loads(JsonLines(node="n1").format(record))
    assert (line["node"], line["pod"]) == ("n2", "ns/web")
