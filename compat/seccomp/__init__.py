"""Seccomp filters: `profile` reads the OCI section, `assembler` writes classic BPF, `load` installs it."""
