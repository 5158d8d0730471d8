"""Kubernetes plumbing: client, reflector, work queue, lease, events."""
