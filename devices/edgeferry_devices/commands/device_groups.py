"""``ferry device tag`` and ``ferry device group``: names for several devices."""

from __future__ import annotations

import click

from edgeferry_devices import groups, inventory
from edgeferry_runtime.errors import UsageError


@click.command()
@click.argument("name")
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@click.option("--remove", is_flag=True, help="Take the tags away.")
def tag(name: str, tags: tuple[str, ...], remove: bool) -> None:
    """Tag a device: @TAG then stands for every device that has the tag."""
    entry = (groups.untag if remove else groups.tag)(name, tags)
    click.echo(f"{name}: {', '.join(entry.all_tags) or 'no tags'}")


@click.command()
@click.argument("name")
@click.argument("devices", nargs=-1, metavar="DEVICE|@GROUP...")
@click.option("--remove", is_flag=True, help="Remove the group; its devices stay.")
def group(name: str, devices: tuple[str, ...], remove: bool) -> None:
    """Say which devices the group @NAME has: these, and those that are tagged with its name."""
    name = name.removeprefix("@")
    if bool(devices) == remove:
        raise UsageError(f"group @{name}", "needs devices, or --remove alone", "see: ferry device group --help")
    if remove:
        groups.remove_group(name)
        click.echo(f"removed @{name}")
        return
    groups.set_group(name, devices)
    click.echo(f"@{name}: {', '.join(groups.members(inventory.load(), name))}")
