"""Limits of a machine's processes through control groups, version 1 or 2."""

import os
from typing import TYPE_CHECKING

from bench.homelab.leftovers import GROUPS, remove_group
from bench.homelab.machine import Machine

if TYPE_CHECKING:
    from pathlib import Path

_PERIOD = 100_000
"""Microseconds in which the share of processors is counted."""


class Limits:
    """One machine's control groups. ``missing`` names the limits that this kernel doesn't give."""

    def __init__(self, machine: Machine, tag: str) -> None:
        self._folders: list[Path] = []
        self.missing: list[str] = []
        unified = (GROUPS / "cgroup.controllers").exists()
        self._name = f"{tag}{machine.name}"
        device = _disk()
        quota, memory = int(machine.cpus * _PERIOD), int(machine.memory * 2**20)
        speed = f"{device} {int(machine.disk * 1e6)}"
        if machine.cpus:
            name = "cpu.max" if unified else "cpu.cfs_quota_us"
            self._set("cpu", name, f"{quota} {_PERIOD}" if unified else str(quota))
        if machine.memory:
            name = "memory.max" if unified else "memory.limit_in_bytes"
            self._set("memory", name, str(memory))
        if machine.disk and unified:
            rate = int(machine.disk * 1e6)
            self._set("io", "io.max", f"{device} rbps={rate} wbps={rate}")
        elif machine.disk:
            self._set("blkio", "blkio.throttle.read_bps_device", speed)
            self._set("blkio", "blkio.throttle.write_bps_device", speed)

    @property
    def entrances(self) -> list[str]:
        """Files a process writes its id to, to be limited."""
        return [str(folder / "cgroup.procs") for folder in self._folders]

    def close(self) -> None:
        """Remove the groups; their processes must be gone."""
        for folder in self._folders:
            remove_group(folder)

    def _set(self, controller: str, file: str, value: str) -> None:
        unified = (GROUPS / "cgroup.controllers").exists()
        folder = (GROUPS if unified else GROUPS / controller) / self._name
        try:
            if unified:
                (GROUPS / "cgroup.subtree_control").write_text(f"+{controller}")
            folder.mkdir(exist_ok=True)
            if folder not in self._folders:
                self._folders.append(folder)
            (folder / file).write_text(value)
        except OSError as error:
            self.missing.append(f"{controller} ({(error.strerror or str(error)).lower()})")


def _disk() -> str:
    """Major and minor number of the disk under the working directory."""
    number = os.stat(".").st_dev
    return f"{os.major(number)}:{os.minor(number)}"
