"""Baton's service: recurrent models over HTTP, their state a value that the client carries."""

__version__ = "0.1.0"
