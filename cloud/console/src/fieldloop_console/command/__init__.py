"""The `fieldloop` command: a client of the console's API, and `up`, which runs the cloud side.

Exit status: 0 done; 1 the server refused, or a thing waited for ended badly; 2 wrong usage;
75 nobody answers, try again; 78 nobody is logged in, or a setting is wrong.
"""

from fieldloop_console.command.main import main

__all__ = ["main"]
