"""What a machine is and does, found by reading its files."""
