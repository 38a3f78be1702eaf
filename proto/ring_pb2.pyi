from hearthring.proto import cells_pb2 as _cells_pb2
from hearthring.proto import verify_pb2 as _verify_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("version", "caller", "swarm", "signature", "membership")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    SWARM_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    version: int
    caller: str
    swarm: str
    signature: bytes
    membership: bytes
    def __init__(self, version: _Optional[int] = ..., caller: _Optional[str] = ..., swarm: _Optional[str] = ..., signature: _Optional[bytes] = ..., membership: _Optional[bytes] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("name", "message", "field", "mend")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MEND_FIELD_NUMBER: _ClassVar[int]
    name: str
    message: str
    field: str
    mend: str
    def __init__(self, name: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., mend: _Optional[str] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("id", "parent", "position", "kind")
    ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    id: int
    parent: int
    position: int
    kind: int
    def __init__(self, id: _Optional[int] = ..., parent: _Optional[int] = ..., position: _Optional[int] = ..., kind: _Optional[int] = ...) -> None: ...

class HopTime(_message.Message):
    __slots__ = ("queue_us", "compute_us")
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    queue_us: int
    compute_us: int
    def __init__(self, queue_us: _Optional[int] = ..., compute_us: _Optional[int] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("session", "epoch", "step_id", "commit", "drop", "rows", "dead", "states", "want_output", "signature", "times", "boundary")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    WANT_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    epoch: int
    step_id: int
    commit: _containers.RepeatedScalarFieldContainer[int]
    drop: _containers.RepeatedScalarFieldContainer[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    dead: _containers.RepeatedScalarFieldContainer[int]
    states: bytes
    want_output: bool
    signature: bytes
    times: _containers.RepeatedCompositeFieldContainer[HopTime]
    boundary: int
    def __init__(self, session: _Optional[bytes] = ..., epoch: _Optional[int] = ..., step_id: _Optional[int] = ..., commit: _Optional[_Iterable[int]] = ..., drop: _Optional[_Iterable[int]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., dead: _Optional[_Iterable[int]] = ..., states: _Optional[bytes] = ..., want_output: bool = ..., signature: _Optional[bytes] = ..., times: _Optional[_Iterable[_Union[HopTime, _Mapping]]] = ..., boundary: _Optional[int] = ...) -> None: ...

class PassReady(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Open(_message.Message):
    __slots__ = ("session", "epoch", "model_id", "start", "end", "residual", "fingerprint", "previous", "next", "next_address", "max_rows", "nonce_hash", "taps", "previous_fingerprint", "sharing", "cells", "silent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    NEXT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    NONCE_HASH_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SHARING_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    epoch: int
    model_id: str
    start: int
    end: int
    residual: str
    fingerprint: str
    previous: str
    next: str
    next_address: str
    max_rows: int
    nonce_hash: bytes
    taps: _containers.RepeatedScalarFieldContainer[int]
    previous_fingerprint: str
    sharing: int
    cells: bool
    silent: bool
    def __init__(self, session: _Optional[bytes] = ..., epoch: _Optional[int] = ..., model_id: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., residual: _Optional[str] = ..., fingerprint: _Optional[str] = ..., previous: _Optional[str] = ..., next: _Optional[str] = ..., next_address: _Optional[str] = ..., max_rows: _Optional[int] = ..., nonce_hash: _Optional[bytes] = ..., taps: _Optional[_Iterable[int]] = ..., previous_fingerprint: _Optional[str] = ..., sharing: _Optional[int] = ..., cells: bool = ..., silent: bool = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("numerics", "rows")
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    numerics: str
    rows: int
    def __init__(self, numerics: _Optional[str] = ..., rows: _Optional[int] = ...) -> None: ...

class Tap(_message.Message):
    __slots__ = ("step_id", "boundary", "ids", "states")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    boundary: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    states: bytes
    def __init__(self, step_id: _Optional[int] = ..., boundary: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., states: _Optional[bytes] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("last_step", "commit")
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    last_step: int
    commit: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, last_step: _Optional[int] = ..., commit: _Optional[_Iterable[int]] = ...) -> None: ...

class EvidenceQuery(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Reroute(_message.Message):
    __slots__ = ("epoch", "previous", "previous_fingerprint", "next", "next_address", "committed", "live", "compare")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    NEXT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    previous: str
    previous_fingerprint: str
    next: str
    next_address: str
    committed: _containers.RepeatedScalarFieldContainer[int]
    live: _containers.RepeatedScalarFieldContainer[int]
    compare: int
    def __init__(self, epoch: _Optional[int] = ..., previous: _Optional[str] = ..., previous_fingerprint: _Optional[str] = ..., next: _Optional[str] = ..., next_address: _Optional[str] = ..., committed: _Optional[_Iterable[int]] = ..., live: _Optional[_Iterable[int]] = ..., compare: _Optional[int] = ...) -> None: ...

class Replay(_message.Message):
    __slots__ = ("step_id", "rows", "next", "next_address")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    NEXT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    rows: _containers.RepeatedScalarFieldContainer[int]
    next: str
    next_address: str
    def __init__(self, step_id: _Optional[int] = ..., rows: _Optional[_Iterable[int]] = ..., next: _Optional[str] = ..., next_address: _Optional[str] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class SignedRows(_message.Message):
    __slots__ = ("epoch", "step_id", "ids", "hashes", "signature")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step_id: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    signature: bytes
    def __init__(self, epoch: _Optional[int] = ..., step_id: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., hashes: _Optional[_Iterable[bytes]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: _containers.RepeatedCompositeFieldContainer[SignedRows]
    def __init__(self, received: _Optional[_Iterable[_Union[SignedRows, _Mapping]]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("body", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AttachUp(_message.Message):
    __slots__ = ("open", "cancel", "finish", "evidence", "reroute", "replay", "probe")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    REROUTE_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    cancel: Cancel
    finish: Finish
    evidence: EvidenceQuery
    reroute: Reroute
    replay: Replay
    probe: Probe
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., evidence: _Optional[_Union[EvidenceQuery, _Mapping]] = ..., reroute: _Optional[_Union[Reroute, _Mapping]] = ..., replay: _Optional[_Union[Replay, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ...) -> None: ...

class Rerouted(_message.Message):
    __slots__ = ("epoch", "newest", "took", "sent")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    TOOK_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    newest: int
    took: bytes
    sent: bytes
    def __init__(self, epoch: _Optional[int] = ..., newest: _Optional[int] = ..., took: _Optional[bytes] = ..., sent: _Optional[bytes] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("number", "step_id", "waiting")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    number: int
    step_id: int
    waiting: int
    def __init__(self, number: _Optional[int] = ..., step_id: _Optional[int] = ..., waiting: _Optional[int] = ...) -> None: ...

class Trouble(_message.Message):
    __slots__ = ("epoch", "node", "error")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    node: str
    error: Failure
    def __init__(self, epoch: _Optional[int] = ..., node: _Optional[str] = ..., error: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class AttachDown(_message.Message):
    __slots__ = ("opened", "result", "tap", "receipt", "evidence", "rerouted", "progress", "trouble")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    REROUTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    result: Step
    tap: Tap
    receipt: Receipt
    evidence: Evidence
    rerouted: Rerouted
    progress: Progress
    trouble: Trouble
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., result: _Optional[_Union[Step, _Mapping]] = ..., tap: _Optional[_Union[Tap, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ..., rerouted: _Optional[_Union[Rerouted, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., trouble: _Optional[_Union[Trouble, _Mapping]] = ...) -> None: ...

class DirectoryQuery(_message.Message):
    __slots__ = ("model_id",)
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    def __init__(self, model_id: _Optional[str] = ...) -> None: ...

class DirectoryReply(_message.Message):
    __slots__ = ("model_id", "records")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, model_id: _Optional[str] = ..., records: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PieceQuery(_message.Message):
    __slots__ = ("part", "index")
    PART_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    part: str
    index: int
    def __init__(self, part: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class LayersQuery(_message.Message):
    __slots__ = ("model_id", "manifest", "holdings", "outline", "piece")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    OUTLINE_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    manifest: bool
    holdings: bool
    outline: str
    piece: PieceQuery
    def __init__(self, model_id: _Optional[str] = ..., manifest: bool = ..., holdings: bool = ..., outline: _Optional[str] = ..., piece: _Optional[_Union[PieceQuery, _Mapping]] = ...) -> None: ...

class Holdings(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, parts: _Optional[_Iterable[str]] = ...) -> None: ...

class Outline(_message.Message):
    __slots__ = ("size", "hashes")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    size: int
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, size: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LayersReply(_message.Message):
    __slots__ = ("manifest", "holdings", "outline", "piece")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    OUTLINE_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    holdings: Holdings
    outline: Outline
    piece: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., holdings: _Optional[_Union[Holdings, _Mapping]] = ..., outline: _Optional[_Union[Outline, _Mapping]] = ..., piece: _Optional[bytes] = ...) -> None: ...

class StatusQuery(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StepTime(_message.Message):
    __slots__ = ("kind", "rows", "seconds")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    kind: int
    rows: int
    seconds: float
    def __init__(self, kind: _Optional[int] = ..., rows: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "version", "record", "dht_addresses", "sessions", "uptime_s", "timings")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    DHT_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    node: str
    version: int
    record: bytes
    dht_addresses: _containers.RepeatedScalarFieldContainer[str]
    sessions: int
    uptime_s: float
    timings: _containers.RepeatedCompositeFieldContainer[StepTime]
    def __init__(self, node: _Optional[str] = ..., version: _Optional[int] = ..., record: _Optional[bytes] = ..., dht_addresses: _Optional[_Iterable[str]] = ..., sessions: _Optional[int] = ..., uptime_s: _Optional[float] = ..., timings: _Optional[_Iterable[_Union[StepTime, _Mapping]]] = ...) -> None: ...
