"""Time series: real ones and synthetic ones, quantiles, conformal offsets, and measures of forecasts.

Nothing here knows networks, training runs or publishing.
Invariant: the same file or the same seed gives the same series, and measures are in the unit that their names say.
"""
