"""Authoritative DNS for the clusterset's zones: watches the cluster's API and answers from processes of its own."""
