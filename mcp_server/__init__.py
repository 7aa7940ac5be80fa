"""The tools over the Model Context Protocol: protocol only, no mathematics."""
