"""Bakes what is applied to a model into the weights of a checkpoint, takes it out again, and finds what was baked."""
