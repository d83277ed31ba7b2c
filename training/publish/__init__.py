"""A release, or a module that was made elsewhere, becomes `models/<name>/<version>/`.

Nothing here knows tasks or how a network was trained.
Invariant: a version appears whole, after parity held and the service served it, and is never changed afterwards.
"""
