"""Copies of members' EndpointSlices in the clusterset's namespace."""
