"""Built-in scheduler policies."""
