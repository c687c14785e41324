"""The verbs of `joey rich`, one module each; shared.py has what several of them take."""
