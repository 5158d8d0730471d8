"""The CNI server: addresses, journal and the wiring of pods."""
