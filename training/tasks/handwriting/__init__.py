"""Handwriting: a text in, pen strokes out, point by point.

Nothing here knows sounds, series or other texts than what is to be written.
Invariant: every figure is of writers who were neither trained on nor chose a checkpoint.
"""
