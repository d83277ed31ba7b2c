"""A folder for each family of models: recipe, network, module, evaluation and report. Two share `forecaster`.

A task knows neither publishing nor the other tasks.
Invariant: what measures a finished model neither trained it nor chose its checkpoint.
"""
