"""The `baton` command: what a user types, read, carried out and shown.

It does not know how models run, or what an answer means beyond its public form. Invariant: a module loads what its
commands need only when one of them runs, so that none waits for what another needs.
"""
