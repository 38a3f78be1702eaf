"""Start an emulated home and run a command in one of its machines.

Run: python -m bench.homelab HOME.toml [--in NAME] [--seed N] -- COMMAND ...

HOME.toml holds a [[machine]] table for each machine: name, and as wanted up, down (Mbit/s), delay,
jitter (ms one way), loss (a fraction), cpus, memory (MiB), disk (MB/s). The command finds the
addresses as HOME_<NAME>, and starts something in another machine with
eval "$HOME_IN_<NAME> COMMAND ...".
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from bench.homelab import Home, read_machines, why_not


def main() -> int:
    """The command's exit code; 69 where no home can be built."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("--in", dest="machine", help="by default the first machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if reason := why_not():
        print(f"homelab: skipped: {reason}", file=sys.stderr)
        return 69
    try:
        machines = read_machines(options.home)
        home = Home(machines, options.seed)
    except (OSError, ValueError) as error:
        print(f"homelab: {error}", file=sys.stderr)
        return 64
    name = options.machine or machines[0].name
    if name not in home.machines:
        print(f"homelab: no machine {name!r}", file=sys.stderr)
        return 64
    with home:
        for missing in home.missing:
            print(f"homelab: this kernel doesn't limit {missing}", file=sys.stderr)
        environment = dict(os.environ)
        for machine in machines:
            environment[f"HOME_{machine.name.upper()}"] = home.address(machine.name)
            environment[f"HOME_IN_{machine.name.upper()}"] = shlex.join(home.prefix(machine.name))
        return home.run(name, options.command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
