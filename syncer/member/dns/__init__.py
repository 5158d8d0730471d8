"""Lets the cluster's own DNS ask crossdns, and takes that back."""
