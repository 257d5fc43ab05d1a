"""Data sets that the project makes itself, so a first run needs neither a download nor an account."""
