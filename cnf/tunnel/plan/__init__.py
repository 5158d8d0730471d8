"""What a tunnel must hold, decided from values alone."""
