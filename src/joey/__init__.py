"""joey: run OCI containers and migrated machines on Linux kernels from 2.6.32 to today's."""

__version__ = "0.1.0"
