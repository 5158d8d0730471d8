"""The fleetboard command: a subcommand a module, each a thin shell around values of ``fleetboard.model``."""
