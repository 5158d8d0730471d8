"""What a cnf leaves to the cnf that follows a replaced pod: its firewall and its connections."""
