"""Joins the hub and keeps the credential."""
