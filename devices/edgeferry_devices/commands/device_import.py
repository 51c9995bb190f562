"""``ferry device import``: take the hosts of an Ansible inventory into ours."""

from __future__ import annotations

from pathlib import Path

import click

from edgeferry_runtime.commands.output import emit, json_option, say, table


@click.command(name="import")
@click.argument("hosts", type=click.Path(path_type=Path))
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag the hosts with it besides; repeatable.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@json_option
def import_(hosts: Path, tags: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Take the hosts of HOSTS, an Ansible inventory (hosts.ini or hosts.yml), into ours. Nothing is executed.

    Groups become tags. Importing a file again updates what came from it, and keeps the rest.
    """
    from edgeferry_devices.importing import plan_import

    plan = plan_import(hosts, tags)
    if not dry_run:
        plan.perform()
    kinds = {"new": plan.added, "changed": plan.changed, "same": plan.same}
    rows = [(entry.name, str(entry.address), what, entry) for what, entries in kinds.items() for entry in entries]
    if as_json:
        told = [{"name": n, "address": a, "state": what, "tags": list(e.all_tags)} for n, a, what, e in rows]
        emit({"devices": told, "gone": list(plan.gone), "notes": list(plan.notes), "dry_run": dry_run})
    else:
        lines = [(name, address, what, ", ".join(entry.all_tags)) for name, address, what, entry in sorted(rows)]
        click.echo(table([("device", "address", "", "tags"), *lines]))
    for note in plan.notes:
        say(note)
    for name in plan.gone:
        say(f"{name}: is not in {hosts} any more; to forget it: ferry device remove {name}")
    if dry_run:
        say("nothing was changed")
