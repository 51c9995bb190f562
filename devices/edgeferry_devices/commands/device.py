"""``ferry device``: add, list, trust, inspect, set up and remove devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeferry_devices import groups, hostkeys, inventory
from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.commands.device_groups import group, tag
from edgeferry_devices.commands.device_import import import_
from edgeferry_devices.commands.device_setup import remove, setup
from edgeferry_devices.hostkeys import HostKey
from edgeferry_devices.inventory import LOCAL, Entry
from edgeferry_runtime.commands.output import emit, json_option, say, table
from edgeferry_runtime.errors import HostKeyError, UsageError


@click.group()
def device() -> None:
    """Add, list, trust, inspect, set up and remove devices. The device `local` is this machine."""


device.add_command(tag)
device.add_command(group)
device.add_command(import_)


@device.command()
@click.argument("name")
@click.argument("address", metavar="[USER@]HOST[:PORT]|adb:SERIAL")
@click.option("--key", type=click.Path(path_type=Path), help="Private key file; else those of ~/.ssh and the agent.")
@click.option("--password-env", default="", metavar="VARIABLE", help="Environment variable that holds the password.")
@click.option("--root", default=inventory.DEFAULT_ROOT, show_default=True, help="Our folder on the device.")
@click.option("--jump", default="", metavar="[USER@]HOST[:PORT]", help="Host to go through; several joined by commas.")
@click.option("--inside", default="", metavar="proot:NAME", help="On a phone: the proot-distro in which all executes.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="What @TAG then stands for; repeatable.")
def add(name: str, address: str, key: Path | None, tags: tuple[str, ...], **more: Any) -> None:
    """Name a device, reached over SSH or, a phone, over adb. Nothing is sent yet."""
    place = inventory.parse_address(address)
    if key is not None and not key.expanduser().is_file():
        raise UsageError(f"--key {key}", "no such file", "give the private key file")
    full_key = str(key.expanduser().absolute()) if key else ""
    where = name, place.host, place.user, place.port, full_key
    entry = Entry(*where, tags=tuple(dict.fromkeys(tags)), **more)
    inventory.add(entry)
    click.echo(f"added {name} ({place})")
    say(f"next: ferry device {'info' if entry.serial else 'trust'} {name}")


@device.command()
@click.option("--seconds", type=click.FloatRange(0.2, 60), default=3.0, show_default=True, help="How long to listen.")
@click.option("--interface", "interfaces", multiple=True, metavar="ADDRESS", help="Ask on this one only; repeatable.")
@json_option
def discover(seconds: float, interfaces: tuple[str, ...], as_json: bool) -> None:
    """Find boards that announce themselves in this network by mDNS. What they say is not proven: see `trust`."""
    from edgeferry_devices.discovery import discover as ask

    found = ask(seconds, interfaces)
    known = {entry.host: entry.name for entry in inventory.read().values()}
    names = [next((known[place] for place in (b.host, *b.addresses) if place in known), "") for b in found]
    if as_json:
        emit({"boards": [{**vars(b), "device": name or None} for b, name in zip(found, names, strict=True)]})
        return
    rows = [(b.host, ", ".join(b.addresses), str(b.port), ", ".join(b.services)) for b in found]
    head = ("host", "addresses", "port", "announces", "device")
    click.echo(table([head, *((*row, name) for row, name in zip(rows, names, strict=True))]))
    if not found:
        say(f"no board announced itself within {seconds:g} s: boards do so by Avahi, in their own network only")
    for board, name in zip(found, names, strict=True):
        if not name:
            port = "" if board.port == 22 else f":{board.port}"
            say(f"next: ferry device add {board.name} USER@{board.host}{port}")


@device.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the devices, and the tags and groups that each can be named by with an @ in front."""
    found = inventory.load()
    entries = [found.devices[name] for name in sorted(found.devices)]
    rows = [(e.name, str(e.address), e.key, e.folder) for e in entries]
    tags = [groups.of(found, name) for name in (LOCAL, *(e.name for e in entries))]
    if as_json:
        keys = ("name", "address", "key", "root")
        listed = [(LOCAL, None, None, None), *rows]
        told = [{**dict(zip(keys, row, strict=True)), "tags": names} for row, names in zip(listed, tags, strict=True)]
        emit({"devices": told, "groups": {name: list(each) for name, each in found.groups.items()}})
        return
    full = zip([(LOCAL, "this machine", "", ""), *rows], tags, strict=True)
    head = ("device", "address", "key", "folder", "tags")
    click.echo(table([head, *((*row, ", ".join(names)) for row, names in full)]))


@device.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask. Use it only where nobody can stand between.")
@click.option("--fingerprint", metavar="SHA256:...", help="Trust the key only if it has this fingerprint.")
def trust(name: str, yes: bool, fingerprint: str | None) -> None:
    """Show a device's host key, and pin it once you have compared its fingerprint."""
    from edgeferry_devices.route import resolve
    from edgeferry_devices.ssh import fetch_host_key

    if name == LOCAL:
        raise UsageError("device local", "is this machine and has no host key", "nothing is to be done")
    entry = inventory.get(name)
    if entry.serial:
        raise UsageError(f"device {name}", "is reached over adb and has no host key", "accept the dialog on its screen")
    route = resolve(entry)
    before = hostkeys.trusted(route.known_as, route.known_hosts)
    key = fetch_host_key(route, secrets=terminal(), kinds=[k.kind for k in before if not k.revoked])
    if any(k.revoked and k.blob == key.blob for k in before):
        hostkeys.check(name, key, before)
    if any(k == key for k in before):
        click.echo(f"{name}: {key} is trusted already")
        return
    _show(name, route.known_as, key, before)
    _confirm(name, key, yes, fingerprint)
    hostkeys.pin(route.known_as, key)
    click.echo(f"{name}: pinned {key}")


def _show(name: str, known_as: str, key: HostKey, before: list[HostKey]) -> None:
    for old in before:
        say(f"{name}: {known_as} was known by   {old}")
    say(f"{name}: {known_as} shows the key {'CHANGED to ' if before else ''}{key}")


def _confirm(name: str, key: HostKey, yes: bool, fingerprint: str | None) -> None:
    if fingerprint is not None:
        if fingerprint != key.fingerprint:
            reason = f"its host key is {key.fingerprint}, not {fingerprint}"
            raise HostKeyError(name, reason, "do not connect before you know why")
        return
    if not yes and not click.confirm(f"Is this the fingerprint that {name} itself shows?", err=True):
        raise HostKeyError(name, "its host key was not confirmed", "compare it with: ssh-keygen -lf on the device")


@device.command()
@click.argument("name", default=LOCAL)
@json_option
def info(name: str, as_json: bool) -> None:
    """Show what a device is, and how it fares: board, processor, memory, Python, engines, accelerators, sensors.

    Nothing needs to be installed there. What a device does not tell is left out.
    """
    from edgeferry_devices.commands.facts_text import facts_text
    from edgeferry_devices.device import open_device
    from edgeferry_devices.facts import gather

    with open_device(name, terminal()) as there:
        facts = gather(there)
    if as_json:
        emit(facts.to_dict())
    else:
        click.echo(facts_text(facts))


device.add_command(setup)
device.add_command(remove)
