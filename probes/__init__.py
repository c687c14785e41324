"""What works on this machine, and which way we therefore choose.

`groups/` tries things, `run` tries them safely, `report` keeps what came back, `ladder` lists the mechanisms of each
feature, `plan` chooses. Imports `joey.compat` only.
"""
