"""Policies know what to do about an error: pure functions over records. Imports `evals`."""
