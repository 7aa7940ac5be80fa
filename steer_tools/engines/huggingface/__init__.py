"""The engine on Hugging Face transformers: the only place that looks inside its models and registers torch hooks."""
