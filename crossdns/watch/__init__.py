"""Follows the cluster's API, and keeps the answering processes' zone in step."""
