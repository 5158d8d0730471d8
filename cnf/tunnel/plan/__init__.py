"""What the tunnel must hold, decided from values alone: no sockets, no threads, no API."""
