"""Answers queries, in processes that know nothing of Kubernetes; and starts and feeds those processes."""
