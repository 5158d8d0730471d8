"""Imports: from the clusterset's services to this cluster's ServiceImports and EndpointSlices."""
