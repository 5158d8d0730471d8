"""Imports the clusterset's services into this cluster's ServiceImports and EndpointSlices."""
