"""`baton score`: any number of rows, by one engine for each core, into part files.

It knows tables and the calls of /v1, not how models run. Invariant: a part file holds all results of its chunk of the
input or is not there, so who was interrupted goes on by what is there.
"""
