"""Sending a sweep to a Ray cluster elsewhere, following it there, and bringing it home: through the dashboard's HTTP API alone."""
