"""Inputs of the embedded default run, so that a first run needs neither a download nor an account."""
