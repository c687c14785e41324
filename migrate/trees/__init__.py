"""Trees: what can be read like a root file system, whatever it comes from. `entry.py` is the contract."""
