from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReceiptBody(_message.Message):
    __slots__ = ("version", "node", "client", "session", "epoch", "nonce_hash", "model_id", "start", "end", "residual", "numerics", "fingerprint", "previous", "next", "rows", "in_roots", "out_roots", "digests", "previous_fingerprint", "cell_roots", "kv")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NONCE_HASH_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    IN_ROOTS_FIELD_NUMBER: _ClassVar[int]
    OUT_ROOTS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CELL_ROOTS_FIELD_NUMBER: _ClassVar[int]
    KV_FIELD_NUMBER: _ClassVar[int]
    version: int
    node: str
    client: str
    session: bytes
    epoch: int
    nonce_hash: bytes
    model_id: str
    start: int
    end: int
    residual: str
    numerics: str
    fingerprint: str
    previous: str
    next: str
    rows: int
    in_roots: _containers.RepeatedScalarFieldContainer[bytes]
    out_roots: _containers.RepeatedScalarFieldContainer[bytes]
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    previous_fingerprint: str
    cell_roots: _containers.RepeatedScalarFieldContainer[bytes]
    kv: str
    def __init__(self, version: _Optional[int] = ..., node: _Optional[str] = ..., client: _Optional[str] = ..., session: _Optional[bytes] = ..., epoch: _Optional[int] = ..., nonce_hash: _Optional[bytes] = ..., model_id: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., residual: _Optional[str] = ..., numerics: _Optional[str] = ..., fingerprint: _Optional[str] = ..., previous: _Optional[str] = ..., next: _Optional[str] = ..., rows: _Optional[int] = ..., in_roots: _Optional[_Iterable[bytes]] = ..., out_roots: _Optional[_Iterable[bytes]] = ..., digests: _Optional[_Iterable[bytes]] = ..., previous_fingerprint: _Optional[str] = ..., cell_roots: _Optional[_Iterable[bytes]] = ..., kv: _Optional[str] = ...) -> None: ...

class ProofSampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class StageProof(_message.Message):
    __slots__ = ("node", "start", "end", "receipt", "signature", "received")
    NODE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    node: str
    start: int
    end: int
    receipt: bytes
    signature: bytes
    received: bytes
    def __init__(self, node: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., receipt: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., received: _Optional[bytes] = ...) -> None: ...

class ProofBody(_message.Message):
    __slots__ = ("version", "client", "session", "nonce", "model_id", "model_name", "residual", "numerics", "fingerprint", "tokens", "prompt_tokens", "prompt_hash", "sampling", "sampling_rule", "stages", "in_roots", "out_roots", "digests", "received", "created_ms", "row_ids", "answer_hash", "class_from", "candidates")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_HASH_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RULE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    IN_ROOTS_FIELD_NUMBER: _ClassVar[int]
    OUT_ROOTS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    ROW_IDS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_HASH_FIELD_NUMBER: _ClassVar[int]
    CLASS_FROM_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    version: int
    client: str
    session: bytes
    nonce: bytes
    model_id: str
    model_name: str
    residual: str
    numerics: str
    fingerprint: str
    tokens: int
    prompt_tokens: int
    prompt_hash: bytes
    sampling: ProofSampling
    sampling_rule: str
    stages: _containers.RepeatedCompositeFieldContainer[StageProof]
    in_roots: _containers.RepeatedScalarFieldContainer[bytes]
    out_roots: _containers.RepeatedScalarFieldContainer[bytes]
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    received: bytes
    created_ms: int
    row_ids: _containers.RepeatedScalarFieldContainer[int]
    answer_hash: bytes
    class_from: int
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    def __init__(self, version: _Optional[int] = ..., client: _Optional[str] = ..., session: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., model_id: _Optional[str] = ..., model_name: _Optional[str] = ..., residual: _Optional[str] = ..., numerics: _Optional[str] = ..., fingerprint: _Optional[str] = ..., tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., prompt_hash: _Optional[bytes] = ..., sampling: _Optional[_Union[ProofSampling, _Mapping]] = ..., sampling_rule: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[StageProof, _Mapping]]] = ..., in_roots: _Optional[_Iterable[bytes]] = ..., out_roots: _Optional[_Iterable[bytes]] = ..., digests: _Optional[_Iterable[bytes]] = ..., received: _Optional[bytes] = ..., created_ms: _Optional[int] = ..., row_ids: _Optional[_Iterable[int]] = ..., answer_hash: _Optional[bytes] = ..., class_from: _Optional[int] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("node", "owner", "fingerprint", "networks")
    NODE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    node: str
    owner: str
    fingerprint: str
    networks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[str] = ..., owner: _Optional[str] = ..., fingerprint: _Optional[str] = ..., networks: _Optional[_Iterable[str]] = ...) -> None: ...

class StageName(_message.Message):
    __slots__ = ("node", "start", "end")
    NODE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    node: str
    start: int
    end: int
    def __init__(self, node: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class StageFigures(_message.Message):
    __slots__ = ("node", "start", "end", "chunks_equal", "exp_mismatches_mean", "mantissa_mean")
    NODE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_EQUAL_FIELD_NUMBER: _ClassVar[int]
    EXP_MISMATCHES_MEAN_FIELD_NUMBER: _ClassVar[int]
    MANTISSA_MEAN_FIELD_NUMBER: _ClassVar[int]
    node: str
    start: int
    end: int
    chunks_equal: int
    exp_mismatches_mean: float
    mantissa_mean: float
    def __init__(self, node: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., chunks_equal: _Optional[int] = ..., exp_mismatches_mean: _Optional[float] = ..., mantissa_mean: _Optional[float] = ...) -> None: ...

class VerdictBody(_message.Message):
    __slots__ = ("version", "verifier", "proof_hash", "model_id", "place", "outcome", "strength", "reason", "guilty", "withheld", "fingerprint", "created_ms", "rows", "tokens_checked", "tokens_different", "stages")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    PROOF_HASH_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GUILTY_FIELD_NUMBER: _ClassVar[int]
    WITHHELD_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_CHECKED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_DIFFERENT_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    version: int
    verifier: str
    proof_hash: bytes
    model_id: str
    place: int
    outcome: str
    strength: str
    reason: str
    guilty: _containers.RepeatedCompositeFieldContainer[StageName]
    withheld: _containers.RepeatedScalarFieldContainer[str]
    fingerprint: str
    created_ms: int
    rows: int
    tokens_checked: int
    tokens_different: int
    stages: _containers.RepeatedCompositeFieldContainer[StageFigures]
    def __init__(self, version: _Optional[int] = ..., verifier: _Optional[str] = ..., proof_hash: _Optional[bytes] = ..., model_id: _Optional[str] = ..., place: _Optional[int] = ..., outcome: _Optional[str] = ..., strength: _Optional[str] = ..., reason: _Optional[str] = ..., guilty: _Optional[_Iterable[_Union[StageName, _Mapping]]] = ..., withheld: _Optional[_Iterable[str]] = ..., fingerprint: _Optional[str] = ..., created_ms: _Optional[int] = ..., rows: _Optional[int] = ..., tokens_checked: _Optional[int] = ..., tokens_different: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageFigures, _Mapping]]] = ...) -> None: ...
