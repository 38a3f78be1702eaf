"""Trust: digests, row hashes, receipts, proofs, audits."""
