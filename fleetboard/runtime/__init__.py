"""Runs a part as a process: settings, threads, logs, and a server for metrics and health."""
