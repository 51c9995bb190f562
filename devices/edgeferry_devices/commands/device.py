"""``ferry device``: add, list, trust, inspect and remove devices."""

from __future__ import annotations

from pathlib import Path

import click

from edgeferry_devices import hostkeys, inventory
from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.hostkeys import HostKey
from edgeferry_devices.inventory import LOCAL, Entry
from edgeferry_runtime.commands.output import emit, json_option, say, table
from edgeferry_runtime.errors import HostKeyError, UsageError


@click.group()
def device() -> None:
    """Add, list, trust, inspect and remove devices. The device `local` is this machine."""


@device.command()
@click.argument("name")
@click.argument("address", metavar="[USER@]HOST[:PORT]")
@click.option("--key", type=click.Path(path_type=Path), help="Private key file; else those of ~/.ssh and the agent.")
@click.option("--password-env", default="", metavar="VARIABLE", help="Environment variable that holds the password.")
@click.option("--root", default=inventory.DEFAULT_ROOT, show_default=True, help="Our folder on the device.")
def add(name: str, address: str, key: Path | None, password_env: str, root: str) -> None:
    """Name a device. Nothing is sent yet."""
    place = inventory.parse_address(address)
    if key is not None and not key.expanduser().is_file():
        raise UsageError(f"--key {key}", "no such file", "give the private key file")
    full_key = str(key.expanduser().absolute()) if key else ""
    inventory.add(Entry(name, place.host, place.user, place.port, full_key, root, password_env))
    click.echo(f"added {name} ({place})")
    say(f"next: ferry device trust {name}")


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
    """List the devices."""
    entries = [inventory.read()[name] for name in sorted(inventory.read())]
    rows = [(e.name, str(e.address), e.key, e.root) for e in entries]
    if as_json:
        keys = ("name", "address", "key", "root")
        local = {"name": LOCAL, "address": None, "key": None, "root": None}
        emit({"devices": [local, *(dict(zip(keys, row, strict=True)) for row in rows)]})
        return
    click.echo(table([("device", "address", "key", "folder"), (LOCAL, "this machine", "", ""), *rows]))


@device.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget a device. Nothing on the device itself changes."""
    entry = inventory.remove(name)
    click.echo(f"removed {name} ({entry.address}); its folder {entry.root} is still there")


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
    route = resolve(inventory.get(name))
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
