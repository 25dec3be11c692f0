"""The papers' experiments, one folder each; every script is a command."""
