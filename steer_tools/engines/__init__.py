"""What runs a model: one `Engine` protocol, and one module for each runtime that keeps it."""
