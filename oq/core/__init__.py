"""The pure core: it decides, and does nothing. No async, clock, randomness, I/O or logging in here."""
