"""The processes that serve: as many as the cores, on one port, under a supervisor.

It knows processes, signals and sockets, not requests. Invariants: no worker outlives its supervisor; a worker that died
is replaced; the reason why none can start is raised once, however many there are.
"""
