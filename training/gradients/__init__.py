"""What docs/recurrent-networks.md shows: networks unrolled in time, and how gradients fare on their way back.

Nothing here knows recipes, data sets or published models.
Invariant: every plot and table is made from the raw numbers that are kept beside them.
"""
