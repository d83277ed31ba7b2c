"""What can be asked: a file or a folder for each endpoint, to be read from top to bottom.

An endpoint knows what its requests and answers mean, not the other endpoints. Invariant: an item that cannot be
answered fails alone, with what was wrong, where, and what would be right.
"""
