"""Virtual addresses of the clusterset as nftables maps, and the firewall of cnf's network namespace."""
