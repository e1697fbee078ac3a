"""The version, in a file that imports nothing: setup.cfg reads it."""

VERSION = "0.1.0"
