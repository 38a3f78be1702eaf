"""What every member of a swarm agrees on: messages, limits, identity, records, transport."""
