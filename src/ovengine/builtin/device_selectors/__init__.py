"""Built-in device selectors."""
