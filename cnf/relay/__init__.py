"""The relay (cnf-hub): forwards between members, and probes them."""
