"""Pods that run without their interface because they were started before Multus."""
