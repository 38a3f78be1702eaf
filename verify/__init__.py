"""Trust: digests, row hashes, receipts, proofs, audits.

Beside that, digests by the names that users of PrimeIntellect's ``toploc`` know them by:
``from hearthring.verify import build_proofs_bytes, verify_proofs_bytes``.
"""

from hearthring.verify.toploc import (
    ProofPoly,
    VerificationResult,
    build_proofs,
    build_proofs_base64,
    build_proofs_bytes,
    sha256sum,
    verify_proofs,
    verify_proofs_base64,
    verify_proofs_bytes,
)

__all__ = [
    "ProofPoly",
    "VerificationResult",
    "build_proofs",
    "build_proofs_base64",
    "build_proofs_bytes",
    "sha256sum",
    "verify_proofs",
    "verify_proofs_base64",
    "verify_proofs_bytes",
]
