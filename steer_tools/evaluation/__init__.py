"""What steering is measured on and by: behaviours, questions, damage, figures, scorers.

It must not know experiments.
"""
