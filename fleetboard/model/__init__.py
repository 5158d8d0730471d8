"""The values that parts exchange, and the pure rules about them; imports only the standard library and msgspec."""
