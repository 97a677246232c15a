"""Becomes a child process of the stack: reports to the guard, pins itself, then runs its command.

Run by path, with the standard library alone: `launch.py GUARD_FD CPUS COMMAND...`. The process
itself tells the guard its number, before the command starts: whenever the parent dies, the guard
either knows this process or still sees its end of the pipe open.
"""

import os
import sys


def main(arguments: list[str]) -> None:
    """Report, pin, and replace this process by the command."""
    guard_fd, cpus, command = int(arguments[0]), arguments[1], arguments[2:]
    os.write(guard_fd, f"+{os.getpid()}\n".encode())
    os.close(guard_fd)
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
