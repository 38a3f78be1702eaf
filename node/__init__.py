"""The serving side: daemon, stages, announcements."""
