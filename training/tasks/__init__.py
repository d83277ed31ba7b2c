"""A folder for each family of models: recipe, network, module, evaluation and report.

A task knows neither publishing nor the other tasks; what forecasters share stands in `forecaster`.
Invariant: what a model is tested on is read only to measure the finished model.
"""
