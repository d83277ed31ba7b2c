"""Recurrent stacks of any cell, depth and direction, and their layers as ONNX nodes.

Nothing here knows tasks, data, training or files.
Invariant: a row's outputs and final states depend on that row's own steps and initial states alone.
"""
