"""The spoken digits `digits` and `digits-live`: which digit a recording holds, or a sound so far.

Nothing here knows texts or series.
Invariant: a model hears samples alone; how they become features stands in its graph.
"""
