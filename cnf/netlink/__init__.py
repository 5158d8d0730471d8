"""Raw netlink: the kernel as the hot path speaks to it."""
