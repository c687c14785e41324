"""One module a command: a `COMMAND` and the function it runs. Listed in `cli.COMMANDS`.

HOWTO: adding a command. A module here with a `COMMAND`, a line in `cli.COMMANDS`, a page in docs/, a test that calls
it as a user would.
"""
