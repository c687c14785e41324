"""How to do a thing, several ways each. Decides nothing: probes choose, the runtime executes.

Nothing here imports from `joey.probes`, `joey.runtime` or `joey.migrate`.
"""
