"""The denoiser `denoise`: a noisy ECG in, the ECG out, a sample for each sample.

Nothing here knows heartbeats, or signals of another rate.
Invariant: neither a record nor a stretch of noise that a figure is measured on is ever trained on.
"""
