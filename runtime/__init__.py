"""One container: bundle -> needs -> plan -> steps -> process; and the `joey` command line.

Imports `joey.compat` and `joey.probes`. What runs between the command line and execve (the start path) imports few
modules; tests/runtime/test_start_path.py holds the list.
"""
