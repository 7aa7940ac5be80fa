"""What people and programs see of a sweep or an experiment: Markdown, pictures, JSON. It must not know tools."""
