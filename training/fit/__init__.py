"""Training runs: Lightning fits a recipe's module in one or more processes, and goes on after an interruption.

Nothing here knows tasks, export or publishing.
Invariant: random numbers depend on seed, epoch, step and process alone.
"""
