"""The machine that figures were taken on, in words."""

import os
import platform
from datetime import date
from importlib.metadata import version


def machine(*libraries: str) -> str:
    """Date, cores, memory, versions, and the load of the last minute: others may be at work here."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in libraries)])
    return (
        f"{date.today().isoformat()}; {os.cpu_count()} cores ({platform.machine()}), "
        f"{memory:.0f} GiB of memory, {platform.system()}; {versions}; load {os.getloadavg()[0]:.1f} before."
    )
