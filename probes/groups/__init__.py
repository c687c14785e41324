"""One module a subject; each has a `GROUP` of probes (see `catalog.py`)."""
