"""One module a command or verb: a `COMMAND` and the function it runs. `joey migrate` and `joey image` are listed in
`runtime/cli.py`, their verbs in their own modules.
"""
