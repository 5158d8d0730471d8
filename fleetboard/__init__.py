"""The library of all parts: values, Kubernetes plumbing, observability and the command."""
