"""The built-in data set: satellite scenes, drawn."""
