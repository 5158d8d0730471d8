"""The handover from a replaced pod's cnf to the next one: its firewall and its connections."""
