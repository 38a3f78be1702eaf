"""What every member of a swarm agrees on: messages, limits, identity, records, transport."""

import os

# Read once, when gRPC is imported: its own log lines are no user's business.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
