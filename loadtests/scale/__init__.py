"""`make bench-scale`: what one, two and three replicas bear, measured and simulated, and a plan for many machines.

It knows what a step costs and counts sessions, not what a step means. Invariant: the simulation's costs are fitted to
loads of one replica alone, so what it says of more is a prediction.
"""
