"""Other servers beside Baton: each in an environment of its own, on the same graphs, under the same load.

The modules here know how a peer is installed, started and asked; the files in `apps/` run inside the peers. Invariant:
nothing is measured of a server before its answers were those of ONNX Runtime.
"""
