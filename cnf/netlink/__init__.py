"""Raw rtnetlink: the kernel's network configuration, as the hot path needs it."""
