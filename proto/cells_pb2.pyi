from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Cell(_message.Message):
    __slots__ = ("layer", "position")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    layer: int
    position: int
    def __init__(self, layer: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class CommitmentQuery(_message.Message):
    __slots__ = ("session", "start", "whole")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    start: int
    whole: bool
    def __init__(self, session: _Optional[bytes] = ..., start: _Optional[int] = ..., whole: bool = ...) -> None: ...

class CellsOpen(_message.Message):
    __slots__ = ("session", "cells", "grant", "grant_signature", "start")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    GRANT_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    grant: bytes
    grant_signature: bytes
    start: int
    def __init__(self, session: _Optional[bytes] = ..., cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., grant: _Optional[bytes] = ..., grant_signature: _Optional[bytes] = ..., start: _Optional[int] = ...) -> None: ...

class CellsQuery(_message.Message):
    __slots__ = ("commitment", "open")
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    commitment: CommitmentQuery
    open: CellsOpen
    def __init__(self, commitment: _Optional[_Union[CommitmentQuery, _Mapping]] = ..., open: _Optional[_Union[CellsOpen, _Mapping]] = ...) -> None: ...

class Commitment(_message.Message):
    __slots__ = ("body", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class OpenedColumn(_message.Message):
    __slots__ = ("boundary", "first", "hashes", "residuals", "k", "k_hash", "v", "v_hash", "path", "positions", "rows", "last")
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    RESIDUALS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    K_HASH_FIELD_NUMBER: _ClassVar[int]
    V_FIELD_NUMBER: _ClassVar[int]
    V_HASH_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    boundary: int
    first: int
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    residuals: bytes
    k: bytes
    k_hash: bytes
    v: bytes
    v_hash: bytes
    path: _containers.RepeatedScalarFieldContainer[bytes]
    positions: _containers.RepeatedScalarFieldContainer[int]
    rows: bytes
    last: bool
    def __init__(self, boundary: _Optional[int] = ..., first: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ..., residuals: _Optional[bytes] = ..., k: _Optional[bytes] = ..., k_hash: _Optional[bytes] = ..., v: _Optional[bytes] = ..., v_hash: _Optional[bytes] = ..., path: _Optional[_Iterable[bytes]] = ..., positions: _Optional[_Iterable[int]] = ..., rows: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class CellsReply(_message.Message):
    __slots__ = ("commitment", "column")
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    commitment: Commitment
    column: OpenedColumn
    def __init__(self, commitment: _Optional[_Union[Commitment, _Mapping]] = ..., column: _Optional[_Union[OpenedColumn, _Mapping]] = ...) -> None: ...
