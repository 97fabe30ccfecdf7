"""Benchmarks (`make bench`): each row is measured beside its baseline in one run, interleaved; never a timed test."""
