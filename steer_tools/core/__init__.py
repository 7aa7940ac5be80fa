"""The nouns of steering: where, which tokens, what is done, how strongly, on which rows.

It must not know hooks, models or files.
"""
