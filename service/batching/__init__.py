"""Rows of many callers in shared runs: admitted or refused, queued, run, answered or given up.

It knows asyncio and threads, not HTTP, not ONNX and not models. Invariant: every row that was admitted is answered
once, with its answer or the reason why there is none.
"""
