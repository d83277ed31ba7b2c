"""What runs inside the peers: the least that each one's documentation asks for, around the same reader of ids.

These files import their peer, the reader beside them, and nothing else of the project.
"""
