"""What people type into Python → the tools' plain arguments; the tools' plain results → what reads well in a notebook.

The public functions and values of the package as Python calls them. It must not know what a tool does.
"""
