"""Sources: where a migration reads from. One class each; `contract.py` says what they give, `open.py` picks one."""
