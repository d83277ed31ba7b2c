"""The stepping forecaster `forecast-live`: after each observation, quantiles of the next one and an anomaly score.

Nothing here knows whole histories or series of several channels; all that is remembered is state.
Invariant: k steps in one run equal k runs of one step.
"""
