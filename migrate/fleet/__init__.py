"""Fleets: many hosts over SSH, looked at, judged and rolled out to from one desk.

hosts.py       which hosts there are: a YAML file with groups, or words of the command line
link.py        one host: a connection by fabric, commands there, root by sudo
crew.py        one job on many hosts: at most so many at once, each within its time
looking.py     what a host's kernel can do: by its kit, by joey sent there in memory, by collect.py, or by sh
there/         what runs on the hosts: collect.py for an old Python, and scripts for sh; sent, never imported
kit.py         the host kit: brought to a host by what is different, and switched to
images.py      images to hosts, blob by blob
machines.py    rich containers there: run, upgrade, what is there
waves.py       a few hosts first
judging.py     what a host would do for a container, from its report
store.py       what was found and done, on this machine
page.py        the findings of a fleet as one page
commands/      the verbs of `joey fleet`
"""
