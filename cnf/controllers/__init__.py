"""The agent's controllers: each reconciles one thing with what the API says."""
