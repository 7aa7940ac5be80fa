"""A prompt and the text that answers it → a score from 0 to 1, or None where the scorer cannot say.

A scorer is any such callable; those of this room are made by functions. It must not know models.
"""
