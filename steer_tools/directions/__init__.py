"""Activations of two classes → a direction, and a steering vector with what was measured. It must not know tools."""
