"""Tests of `numadam._least_squares`."""
