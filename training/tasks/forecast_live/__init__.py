"""The stepping forecaster `forecast-live`: after each observation, quantiles of the next one and an anomaly score.

Nothing here knows calendars or other variables; all that is remembered is state.
Invariant: k steps in one run equal k runs of one step.
"""
