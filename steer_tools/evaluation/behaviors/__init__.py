"""Behaviours and the items they are measured on, built in or read from files. It must not know models."""
