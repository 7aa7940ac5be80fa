"""Results → pictures, as PNG bytes. It must not know models, experiments or files."""
