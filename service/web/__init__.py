"""The service towards its clients: connections, requests, bodies, errors and answers, whatever they are about.

It knows ASGI, FastAPI and uvicorn, not what an endpoint answers. Invariant: every request leaves one answer, one line
in the log and one count, and every error has the same shape.
"""
