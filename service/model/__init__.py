"""A model version as numbers: from its directory to an ONNX Runtime session, and from rows to tensors and back.

It knows manifests, graphs and arrays, not queues, tokens or requests. Invariant: a graph that runs has every tensor
that its manifest declares, as declared. ONNX Runtime is imported here, in `onnx_session`, and nowhere else.
"""
