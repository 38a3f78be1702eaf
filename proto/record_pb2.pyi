from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SignedRecord(_message.Message):
    __slots__ = ("body", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class StepPoint(_message.Message):
    __slots__ = ("rows", "seconds")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    seconds: float
    def __init__(self, rows: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class NodeRecord(_message.Message):
    __slots__ = ("version", "node", "swarm", "owner", "owner_signature", "sequence", "expires_ms", "leaving", "model_id", "model_name", "windows", "addresses", "relay_addresses", "engine", "residual", "numerics", "fingerprint", "step_seconds", "row_seconds", "free_rows", "sessions", "link_up", "link_down", "audit_seconds", "prompt_step_seconds", "prompt_row_seconds", "prompt_points")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SWARM_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    OWNER_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    RELAY_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FREE_ROWS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    LINK_UP_FIELD_NUMBER: _ClassVar[int]
    LINK_DOWN_FIELD_NUMBER: _ClassVar[int]
    AUDIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ROW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_POINTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    node: str
    swarm: str
    owner: str
    owner_signature: bytes
    sequence: int
    expires_ms: int
    leaving: bool
    model_id: str
    model_name: str
    windows: _containers.RepeatedCompositeFieldContainer[Window]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    relay_addresses: _containers.RepeatedScalarFieldContainer[str]
    engine: str
    residual: str
    numerics: str
    fingerprint: str
    step_seconds: float
    row_seconds: float
    free_rows: int
    sessions: int
    link_up: float
    link_down: float
    audit_seconds: int
    prompt_step_seconds: float
    prompt_row_seconds: float
    prompt_points: _containers.RepeatedCompositeFieldContainer[StepPoint]
    def __init__(self, version: _Optional[int] = ..., node: _Optional[str] = ..., swarm: _Optional[str] = ..., owner: _Optional[str] = ..., owner_signature: _Optional[bytes] = ..., sequence: _Optional[int] = ..., expires_ms: _Optional[int] = ..., leaving: bool = ..., model_id: _Optional[str] = ..., model_name: _Optional[str] = ..., windows: _Optional[_Iterable[_Union[Window, _Mapping]]] = ..., addresses: _Optional[_Iterable[str]] = ..., relay_addresses: _Optional[_Iterable[str]] = ..., engine: _Optional[str] = ..., residual: _Optional[str] = ..., numerics: _Optional[str] = ..., fingerprint: _Optional[str] = ..., step_seconds: _Optional[float] = ..., row_seconds: _Optional[float] = ..., free_rows: _Optional[int] = ..., sessions: _Optional[int] = ..., link_up: _Optional[float] = ..., link_down: _Optional[float] = ..., audit_seconds: _Optional[int] = ..., prompt_step_seconds: _Optional[float] = ..., prompt_row_seconds: _Optional[float] = ..., prompt_points: _Optional[_Iterable[_Union[StepPoint, _Mapping]]] = ...) -> None: ...
