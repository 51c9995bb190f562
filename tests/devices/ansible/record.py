"""Records what ``ansible-inventory --list`` says of many host lists, which our own reading must agree with.

    python -m venv /tmp/ansible && /tmp/ansible/bin/pip install ansible-core
    /tmp/ansible/bin/python tests/devices/ansible/record.py

It writes ``recorded.json`` beside itself: each case with its files, and of each host its groups and variables. The
tests need no Ansible.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

GENERATED = 60
RECORDED = Path(__file__).with_name("recorded.json")

WRITTEN: dict[str, dict[str, str]] = {
    "hosts, ports and ranges": {
        "hosts.ini": "alone\nalone2:2222\n[web]\nweb[01:12]\nw-[a:d].example.com:23 ansible_user=pi\n"
        "db[0:10:5]x[1:2]\n10.0.0.[1:3]\nalone2\n"
    },
    "addresses": {"hosts.ini": "[v6]\n[2001:db8::1]:2200\nfe80::7\nnode[1:2]:22\n127.0.0.1:2200\nunder_score\n"},
    "children and variables": {
        "hosts.ini": "[all:vars]\nansible_user=all\nx=1\n[site:children]\nweb\ndb\n[web]\na\nb ansible_user=host\n"
        "[db]\nb\nc\n[web:vars]\nansible_user=web\ny=[1, 2]\n[db:vars]\nansible_user=db\nansible_port=2222\n"
        "[site:vars]\nansible_user=site\nz=True\n"
    },
    "variables before their group": {"hosts.ini": "[web:vars]\nv=1\n[top:children]\nweb\n[web]\na\n"},
    "ungrouped": {
        "hosts.ini": "a\nb\n[ungrouped:vars]\nv=ungrouped\n[all:vars]\nv=all\nw=all\n[web]\nb\n[ungrouped]\nc v=own\n"
    },
    "quotes and comments": {
        "hosts.ini": "# first\n; second\n[web] # third\na v='two words' w=\"it's\" # fourth\nb v=\"[1, 'x']\" w=1_0\n"
        'c v=0x10 w=\'"quoted"\' u=None\n[web:vars]\nplain = two words # kept\nquoted = "a # b"\nnumber = 22 # gone\n'
        "equals = a=b=c\nempty =\nregex = \\d+\\.\n"
    },
    "priorities": {
        "hosts.ini": "[a]\nh\n[b]\nh\n[a:vars]\nv=a\nansible_group_priority=10\n[b:vars]\nv=b\n",
    },
    "depths": {
        "hosts.ini": "[z]\nh\n[a:children]\nm\n[m:children]\nz\n[n]\nh\n[z:vars]\nv=z\n[a:vars]\nv=a\nw=a\n"
        "[m:vars]\nv=m\nw=m\n[n:vars]\nv=n\nw=n\n"
    },
    "a host twice": {"hosts.ini": "[web]\na:2222 v=1\n[db]\na:3333 v=2 w=3\n"},
    "files beside it": {
        "hosts.ini": "[web]\na v=line u=line\nb\n[db]\nb\n[web:vars]\nv=ini\nw=ini\ns=ini\n",
        "group_vars/all.yml": "v: all\nw: all\nt: all\n",
        "group_vars/web": "w: web\nt: web\n",
        "group_vars/web.yml": "w: never\n",
        "group_vars/db.json": '{"w": "db", "ansible_port": 2200}',
        "host_vars/a.yaml": "v: file\nansible_host: 10.0.0.1\n",
        "host_vars/b.yml": "",
    },
    "yaml": {
        "hosts.yml": "all:\n  hosts:\n    alone:\n    a[1:2]:\n      ansible_port: 2222\n  vars:\n    v: all\n"
        "  children:\n"
        "    web:\n      hosts:\n        a1: {ansible_user: pi, w: [1, 2]}\n        c.example.com:23:\n"
        "      vars: {v: web}\n"
        "      children:\n        inner:\n          hosts: lone\n          vars:\n            v: inner\n    empty:\n"
        "other:\n  hosts:\n    c.example.com:\n      n: ~\n"
    },
    "yaml with aliases": {
        "hosts.yml": "all:\n  vars: &common\n    ansible_user: pi\n    \"yes\": 'no'\n  children:\n"
        "    web:\n      vars:\n"
        "        <<: *common\n        v: 0o17\n        w: 017\n        d: 2020-01-01x\n      hosts:\n"
        "        a: &a {x: 1}\n        b: *a\n"
    },
    "yaml without a suffix": {"hosts": "web:\n  hosts:\n    a:\n      ansible_host: 10.0.0.1\n"},
    "json": {"hosts.json": '{"all": {"children": {"web": {"hosts": {"a": {"v": 1.5}}}}}}'},
}


def generated(seed: int) -> dict[str, str]:
    """Make a host list at random; what stands in it is what people write."""
    rng = random.Random(seed)
    groups = [f"g{i}" for i in range(rng.randint(1, 6))]
    lines: list[str] = []

    def variables(count: int) -> dict[str, str]:
        values = ["1", "'two words'", "[1, 2]", "True", "10.0.0.1", "x=y", "pi", "2222", '"q"', "0.5", "{'k': 1}"]
        names = ["v", "w", "ansible_user", "ansible_port", "ansible_host"]
        return {rng.choice(names): rng.choice(values) for _ in range(count)}

    def host() -> str:
        shapes = ["h{}", "h{}:2222", "h{}[01:03]", "h[a:c]{}", "10.0.0.{}", "n{}[0:6:3]x[1:2].lan", "h{}.example.com"]
        told = " ".join(f'{k}="{v}"' if " " in v and '"' not in v else f"{k}={v}" for k, v in variables(2).items())
        return f"{rng.choice(shapes).format(rng.randint(0, 5))} {told if rng.random() < 0.5 else ''}"

    lines += [host() for _ in range(rng.randint(0, 2))]
    for index, group in enumerate(groups):
        lines += [f"[{group}]", *(host() for _ in range(rng.randint(0, 4)))]
        if rng.random() < 0.6:
            lines += [f"[{group}:vars]", *(f"{k} = {v}" for k, v in variables(2).items())]
        if index and rng.random() < 0.6:
            lines += [f"[{group}:children]", *{rng.choice(groups[:index]) for _ in range(2)}]
    if rng.random() < 0.5:
        lines += ["[all:vars]", *(f"{k}={v}" for k, v in variables(3).items())]
    files = {"hosts.ini": "\n".join(lines) + "\n"}
    for name in rng.sample([*groups, "all"], k=min(2, len(groups))):
        files[f"group_vars/{name}.yml"] = f"v: file of {name}\nansible_port: {rng.randint(1, 9)}\n"
    return files


def told(files: dict[str, str]) -> dict[str, object] | None:
    """Ask Ansible; None where it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        tool = Path(sys.executable).with_name("ansible-inventory")
        argv = [str(tool), "-i", str(Path(folder, next(iter(files)))), "--list"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode or "Failed to parse" in done.stderr or "Unable to parse" in done.stderr:
        return None
    data = json.loads(done.stdout)
    variables = data.pop("_meta")["hostvars"]
    above: dict[str, set[str]] = {name: set() for name in data}
    for _ in data:
        for name, group in data.items():
            for child in group.get("children", ()):
                above.setdefault(child, set()).update({name}, above[name])
    direct = {(host, name) for name, group in data.items() for host in group.get("hosts", ())}
    hosts = {host for host, _ in direct}
    own = {host: {name for each, name in direct if each == host} for host in hosts}
    groups = {host: sorted({*names, *(up for name in names for up in above[name])}) for host, names in own.items()}
    return {host: {"groups": groups[host], "variables": variables.get(host, {})} for host in sorted(hosts)}


def main() -> None:
    """Record every case."""
    version = subprocess.check_output([Path(sys.executable).with_name("ansible-inventory"), "--version"], text=True)
    cases = {**WRITTEN, **{f"generated {seed}": generated(seed) for seed in range(GENERATED)}}
    recorded = [{"name": name, "files": files, "hosts": told(files)} for name, files in cases.items()]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in recorded)
    head = json.dumps(version.splitlines()[0])
    RECORDED.write_text(f'{{"recorded_with": {head}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
