"""The Open Inference Protocol, version 2, over HTTP: every model as tensors, for the clients of other servers.

It knows the protocol and its extensions as Triton has them, not what a model's task is. Invariant: a row that comes in
here shares runs with rows from everywhere else, and gets the same answer.
"""
