"""Benchmarks for asv: tables of cases, one class a table."""
