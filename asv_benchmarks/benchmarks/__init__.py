"""Benchmarks for asv: the cases of ``numadam.bench`` over commits."""
