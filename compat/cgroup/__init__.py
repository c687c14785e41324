"""Control groups, v1 and v2: `layout` finds hierarchies, `settings` turns OCI resources into file writes,
`group` makes, joins, limits, freezes, kills and removes a container's groups, `device_bpf` is v2's device filter.
"""
