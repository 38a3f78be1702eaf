"""Models: manifests, files, tokenizers, engines, KV slots."""
