"""What float32 and float64 can tell apart in a series, as the forecasters' networks count with it.

It knows the two formats, not series or networks. Invariant: a scale of at least `SMALLEST_SCALE` can be divided by.
"""

# The steps between neighbouring float32 and float64 numbers, relative to their size: smaller differences are rounding.
FLOAT_STEP, DOUBLE_STEP = 2.0**-23, 2.0**-52
# Keeps a history of zeros from dividing by zero, and is still a normal float32 after the multiplications that follow.
# A bound, not a summand: the ONNX exporter drops the addition of a constant this small.
SMALLEST_SCALE = 1e-30
