from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GrantBody(_message.Message):
    __slots__ = ("version", "session", "node", "holder", "expires_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    version: int
    session: bytes
    node: str
    holder: str
    expires_ms: int
    def __init__(self, version: _Optional[int] = ..., session: _Optional[bytes] = ..., node: _Optional[str] = ..., holder: _Optional[str] = ..., expires_ms: _Optional[int] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("body", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RowsQuery(_message.Message):
    __slots__ = ("session", "grant", "start")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    grant: Grant
    start: int
    def __init__(self, session: _Optional[bytes] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ..., start: _Optional[int] = ...) -> None: ...

class OpenedRows(_message.Message):
    __slots__ = ("first", "states", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    states: bytes
    last: bool
    def __init__(self, first: _Optional[int] = ..., states: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class Opener(_message.Message):
    __slots__ = ("node", "address", "grant")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    grant: Grant
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...

class VerifyQuery(_message.Message):
    __slots__ = ("proof", "place", "openers")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    OPENERS_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    place: int
    openers: _containers.RepeatedCompositeFieldContainer[Opener]
    def __init__(self, proof: _Optional[bytes] = ..., place: _Optional[int] = ..., openers: _Optional[_Iterable[_Union[Opener, _Mapping]]] = ...) -> None: ...

class SignedVerdict(_message.Message):
    __slots__ = ("body", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Working(_message.Message):
    __slots__ = ("ahead",)
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    ahead: int
    def __init__(self, ahead: _Optional[int] = ...) -> None: ...

class VerifyUp(_message.Message):
    __slots__ = ("rows", "verify")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    rows: RowsQuery
    verify: VerifyQuery
    def __init__(self, rows: _Optional[_Union[RowsQuery, _Mapping]] = ..., verify: _Optional[_Union[VerifyQuery, _Mapping]] = ...) -> None: ...

class VerifyDown(_message.Message):
    __slots__ = ("rows", "verdict", "working")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WORKING_FIELD_NUMBER: _ClassVar[int]
    rows: OpenedRows
    verdict: SignedVerdict
    working: Working
    def __init__(self, rows: _Optional[_Union[OpenedRows, _Mapping]] = ..., verdict: _Optional[_Union[SignedVerdict, _Mapping]] = ..., working: _Optional[_Union[Working, _Mapping]] = ...) -> None: ...
