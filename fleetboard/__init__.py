"""The library of all parts: values, the Kubernetes client, process supervision, and the ``fleetboard`` command."""
