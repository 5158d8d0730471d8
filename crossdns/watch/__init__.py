"""Follows the member's API and keeps the zone of the answering processes up to date."""
