"""Benchmarks are no tests: pytest collects nothing here, even when it is pointed at this folder."""

collect_ignore_glob = ["*.py"]
