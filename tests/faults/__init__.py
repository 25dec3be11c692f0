"""Kills a training, many times: `python -m tests.faults --help`."""
