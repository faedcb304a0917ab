from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_NODE: _ClassVar[Purpose]
    PURPOSE_ETCD_READER: _ClassVar[Purpose]
    PURPOSE_ETCD_MEMBER: _ClassVar[Purpose]
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_NODE: Purpose
PURPOSE_ETCD_READER: Purpose
PURPOSE_ETCD_MEMBER: Purpose

class SignRequest(_message.Message):
    __slots__ = ("token", "purpose", "request")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    token: str
    purpose: Purpose
    request: bytes
    def __init__(self, token: _Optional[str] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., request: _Optional[bytes] = ...) -> None: ...

class SignReply(_message.Message):
    __slots__ = ("certificate", "authorities", "members")
    class MembersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    authorities: bytes
    members: _containers.ScalarMap[str, str]
    def __init__(self, certificate: _Optional[bytes] = ..., authorities: _Optional[bytes] = ..., members: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Generation(_message.Message):
    __slots__ = ("epoch", "revision")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    revision: int
    def __init__(self, epoch: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class Pod(_message.Message):
    __slots__ = ("namespace", "name", "uid", "keep_address", "owner")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    KEEP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    uid: str
    keep_address: bool
    owner: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ..., keep_address: _Optional[bool] = ..., owner: _Optional[str] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("identifier", "pod", "container_id", "generation")
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    identifier: int
    pod: Pod
    container_id: str
    generation: Generation
    def __init__(self, identifier: _Optional[int] = ..., pod: _Optional[_Union[Pod, _Mapping]] = ..., container_id: _Optional[str] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("node", "control_address", "control_port", "locator", "highest", "held")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_PORT_FIELD_NUMBER: _ClassVar[int]
    LOCATOR_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    node: str
    control_address: str
    control_port: int
    locator: str
    highest: Generation
    held: _containers.RepeatedCompositeFieldContainer[Held]
    def __init__(self, node: _Optional[str] = ..., control_address: _Optional[str] = ..., control_port: _Optional[int] = ..., locator: _Optional[str] = ..., highest: _Optional[_Union[Generation, _Mapping]] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("locator", "sir_prefix", "locator_space", "checksum_mode", "closed_ports", "generation", "ask_first")
    LOCATOR_FIELD_NUMBER: _ClassVar[int]
    SIR_PREFIX_FIELD_NUMBER: _ClassVar[int]
    LOCATOR_SPACE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_MODE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_PORTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ASK_FIRST_FIELD_NUMBER: _ClassVar[int]
    locator: str
    sir_prefix: str
    locator_space: _containers.RepeatedScalarFieldContainer[str]
    checksum_mode: str
    closed_ports: _containers.RepeatedScalarFieldContainer[int]
    generation: Generation
    ask_first: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, locator: _Optional[str] = ..., sir_prefix: _Optional[str] = ..., locator_space: _Optional[_Iterable[str]] = ..., checksum_mode: _Optional[str] = ..., closed_ports: _Optional[_Iterable[int]] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ..., ask_first: _Optional[_Iterable[str]] = ...) -> None: ...

class AssignRequest(_message.Message):
    __slots__ = ("node", "pod", "container_id", "take_over", "reserved")
    NODE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    TAKE_OVER_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    node: str
    pod: Pod
    container_id: str
    take_over: bool
    reserved: int
    def __init__(self, node: _Optional[str] = ..., pod: _Optional[_Union[Pod, _Mapping]] = ..., container_id: _Optional[str] = ..., take_over: _Optional[bool] = ..., reserved: _Optional[int] = ...) -> None: ...

class AssignReply(_message.Message):
    __slots__ = ("identifier", "sir_address", "generation", "owner")
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    SIR_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    identifier: int
    sir_address: str
    generation: Generation
    owner: str
    def __init__(self, identifier: _Optional[int] = ..., sir_address: _Optional[str] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ..., owner: _Optional[str] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("node", "pod", "container_id", "identifier")
    NODE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    node: str
    pod: Pod
    container_id: str
    identifier: int
    def __init__(self, node: _Optional[str] = ..., pod: _Optional[_Union[Pod, _Mapping]] = ..., container_id: _Optional[str] = ..., identifier: _Optional[int] = ...) -> None: ...

class ReleaseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("node", "count")
    NODE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    node: str
    count: int
    def __init__(self, node: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class ReserveReply(_message.Message):
    __slots__ = ("identifiers",)
    IDENTIFIERS_FIELD_NUMBER: _ClassVar[int]
    identifiers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, identifiers: _Optional[_Iterable[int]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("node", "version", "serving", "problems", "owners", "past_netfilter")
    class ProblemsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    PAST_NETFILTER_FIELD_NUMBER: _ClassVar[int]
    node: str
    version: str
    serving: bool
    problems: _containers.ScalarMap[str, str]
    owners: _containers.RepeatedScalarFieldContainer[str]
    past_netfilter: bool
    def __init__(self, node: _Optional[str] = ..., version: _Optional[str] = ..., serving: _Optional[bool] = ..., problems: _Optional[_Mapping[str, str]] = ..., owners: _Optional[_Iterable[str]] = ..., past_netfilter: _Optional[bool] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
