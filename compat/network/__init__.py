"""Networks of containers.

words.py    what a user writes ("bridge,name=shop0,subnet=10.80.0.0/24"), and what it means
links.py    links, bridges, addresses and routes, by netlink and ioctls
leases.py   who has which address of a bridge's subnet
nat.py      the way from a bridge to beyond its host: iptables, or nft
cni.py      the plugins of a CNI list, called as the CNI specification says
attachments.py  what they gave, on disk, to be given back also after a crash
"""
