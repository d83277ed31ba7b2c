"""A PyTorch network becomes one ONNX graph, compared with PyTorch row by row; a graph becomes one in int8 or float16.

Nothing here knows tasks, recipes, data sets or version directories.
Invariant: a graph is exact on ragged batches, and the same graph serves whole sequences and streams.
"""
