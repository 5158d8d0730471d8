"""Sets up forwarding from the cluster's own DNS to crossdns, and removes it."""
