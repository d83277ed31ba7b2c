"""Where the server holds states: in a file shared by the processes of a machine, in Redis, or in this process.

It knows names and bytes, not sessions, tokens or models. Invariant: what loads under a name is exactly what was saved
under it, or nothing.
"""
