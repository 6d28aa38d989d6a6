"""Loops know when: the tutoring cycle, its journal and its command line. Imports everything."""
