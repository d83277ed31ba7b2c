"""The forecaster `segrnn`: seven channels of ETTh1 in, the next 720 hours of each out, by SegRNN.

Nothing here knows other series than ETTh1.
Invariant: errors are in standard deviations of the training part.
"""
