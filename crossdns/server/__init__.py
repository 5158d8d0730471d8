"""Answers queries, in processes that know nothing of Kubernetes."""
