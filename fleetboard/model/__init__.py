"""Values that the parts exchange, and the pure rules about them. Imports the standard library and msgspec alone."""
