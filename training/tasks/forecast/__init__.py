"""The forecaster `forecast`: a history of any series in, quantiles of the next 48 values out.

Nothing here knows streams or series of several channels.
Invariant: answers follow the series' level and unit, and quantiles never cross.
"""
