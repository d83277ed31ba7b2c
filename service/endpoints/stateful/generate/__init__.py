"""Sequences out: generation by stepping with feedback, in a form of its own and in OpenAI's."""
