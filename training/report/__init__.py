"""What people read about published models: cards, pictures, speeds, and the page of all models.

Nothing here knows tasks or data sets; each task brings its own pictures.
Invariant: every figure stands in a manifest, or was measured in the run that wrote the report.
"""
