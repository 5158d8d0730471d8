"""The tunnel in the kernel: link, peers, routes and addresses, driven by the kernel's WireGuard or wireguard-go."""
