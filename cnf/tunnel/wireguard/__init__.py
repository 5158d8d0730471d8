"""WireGuard devices, their peers, addresses and routes: the kernel's and wireguard-go's."""
