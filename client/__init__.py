"""The asking side: routes, sessions, sampling, the public API."""
