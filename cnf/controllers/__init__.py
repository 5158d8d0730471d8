"""The agent's controllers: each reconciles one thing with the API's objects."""
