"""Authoritative DNS for the clusterset's zones: one process watches the member's API, others answer queries."""
