"""Recurrent state as a value: sealed into tokens, kept in a store, found again as a point of a session.

It knows engines, keys and bytes, not HTTP. Invariant: what is opened is exactly what was sealed, for the same tenant
and model, and nothing ever begins from an empty state unless a new session was asked for.
"""
