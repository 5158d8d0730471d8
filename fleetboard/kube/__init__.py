"""The Kubernetes client of all parts: requests, reflectors, controllers, leases and Events."""
