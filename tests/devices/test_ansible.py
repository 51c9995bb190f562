"""Host lists of Ansible's: read as Ansible reads them, and refused where they would have to be executed.

What Ansible says was recorded by ``tests/devices/ansible/record.py``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeferry_devices.ansible import ini, patterns, reading, yaml_data
from edgeferry_devices.ansible.devices import devices
from edgeferry_devices.ansible.hosts import UNGROUPED
from edgeferry_devices.inventory import Entry
from edgeferry_runtime.errors import EdgeferryError, MissingExtraError, MissingFileError, UsageError

CASES = json.loads(Path(__file__).with_name("ansible").joinpath("recorded.json").read_text())["cases"]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a host list, and what stands beside it."""

    def to(files: dict[str, str] | str, name: str = "hosts.ini") -> Path:
        named = {name: files} if isinstance(files, str) else files
        (first,) = (each for each in named if each.startswith("hosts"))
        for each, text in named.items():
            path = tmp_path / "ansible" / each
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "ansible" / first

    return to


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_we_read_what_ansible_reads(case: dict[str, Any], write: Write) -> None:
    path = write(case["files"])
    hosts = reading.read(path)
    ours = {
        name: {"groups": sorted(hosts.groups_of(name)), "variables": dict(reading.variables(path, hosts, name))}
        for name in hosts.variables
    }
    assert json.loads(json.dumps(ours)) == case["hosts"]


def test_the_cases_are_many() -> None:
    assert len(CASES) > 50
    assert sum(len(case["hosts"]) for case in CASES) > 300


@pytest.mark.parametrize(
    ("variables", "entry"),
    [
        ("", Entry("h", "h")),
        ("ansible_host=10.0.0.1 ansible_port=2222 ansible_user=pi", Entry("h", "10.0.0.1", "pi", 2222)),
        ("ansible_ssh_host=a ansible_host=b ansible_ssh_port='22' ansible_ssh_user=x", Entry("h", "a", "x", 22)),
        ("ansible_host=fe80::1%eth0 ansible_port=22", Entry("h", "fe80::1%eth0", port=22)),
        ("ansible_private_key_file=/keys/a ansible_ssh_private_key_file=/keys/b", Entry("h", "h", key="/keys/b")),
        ("ansible_ssh_common_args='-J ann@gate:2222'", Entry("h", "h", jump="ann@gate:2222")),
        ("ansible_ssh_common_args='-Jgate,[::1]:22'", Entry("h", "h", jump="gate,[::1]:22")),
        ("ansible_ssh_common_args='-o ProxyJump=gate'", Entry("h", "h", jump="gate")),
        ("ansible_ssh_common_args='-o \"proxyjump gate\"'", Entry("h", "h", jump="gate")),
        ("ansible_ssh_extra_args='-oProxyJump=gate'", Entry("h", "h", jump="gate")),
        ("ansible_ssh_extra_args='-o ProxyJump=none'", Entry("h", "h")),
        ("ansible_connection=ssh become_password='{{ secret }}' other='{{ x }}'", Entry("h", "h")),
    ],
)
def test_variables_become_a_device(variables: str, entry: Entry, write: Write) -> None:
    path = write(f"h {variables}\n")
    found, _ = devices(path)
    assert found == [Entry(**{**vars(entry), "source": str(path)})]


def test_groups_become_tags(write: Write) -> None:
    text = "a\n[site:children]\nweb\n[web]\na\nb\n[db]\nb\n"
    assert {e.name: set(e.source_tags) for e in devices(write(text))[0]} == {
        "a": {"site", "web"},
        "b": {"site", "web", "db"},
    }


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (
            "h ansible_host='{{ ip }}'\n",
            r"host h, ansible_host: is the template '\{\{ ip \}\}', and nothing is executed",
        ),
        ("[w]\nh\n[w:vars]\nansible_user={% if 1 %}\n", "host h, ansible_user: is the template"),
        (
            {"hosts.yml": "w:\n  hosts:\n    h:\n      ansible_user: !vault |\n        $ANSIBLE_VAULT;1.1\n"},
            "h, ansible_user: is sealed",
        ),
        ("h ansible_user='$ANSIBLE_VAULT;1.1;AES256'\n", "host h, ansible_user: is sealed in a vault"),
        (
            {"hosts.ini": "h\n", "host_vars/h.yml": "$ANSIBLE_VAULT;1.1;AES256\n3132\n"},
            r"host_vars/h\.yml: is sealed in a vault",
        ),
        ("h ansible_password=hunter2\n", "host h, ansible_password: is a password, which is never stored"),
        ("h ansible_ssh_pass='{{ x }}'\n", "host h, ansible_ssh_pass: is a password"),
        (
            {"hosts.ini": "[w]\nh\n", "group_vars/w": "ansible_password: hunter2\n"},
            "host h, ansible_password: is a password",
        ),
        ("h ansible_ssh_common_args='-o ProxyCommand=\"nc %h\"'\n", "ansible_ssh_common_args: has a ProxyCommand"),
        ("h ansible_ssh_common_args='-J -oProxyCommand=id'\n", "is no jump host"),
        ("h ansible_ssh_common_args='-J \"a\\nb\"'\n", "is no jump host"),
        ('h ansible_ssh_common_args="\'"\n', "cannot be read"),
        ("h ansible_port=99999\n", "host h, ansible_port: '99999' is no port"),
        ("h ansible_port=x\n", "'x' is no port"),
        ("h ansible_host=-oProxyCommand=id\n", "host h, ansible_host: '-oProxyCommand=id' is no address"),
        ("h ansible_host='a b'\n", "is no address"),
        ("h ansible_user='-rf'\n", "host h, ansible_user: '-rf@h' is no address"),
        ("h ansible_host=[1,2]\n", r"ansible_host: is no text but '\[1, 2\]'"),
        ("h ansible_user=True\n", "is no text but 'True'"),
        ("-rf\n", "host '-rf': is no name of a device"),
        ("../up\n", r"host '\.\./up': is no name of a device"),
        ("'it\"s'\n", "is no name of a device"),
        ("'new\\nline' x\n", "is no variable with its value"),
        ("pi@host\n", "host 'pi@host': is no name of a device"),
        ("all\n", "host 'all': has a meaning of its own"),
        ("local\n", "host 'local': has a meaning of its own"),
        ("[we/b]\nh\n", "group 'we/b': is no tag"),
        ("[local]\nh\n", "group 'local': is no tag"),
        ("[a b]\nh\n", "has a range that is none"),
        ("[w:wars]\n", "line 1: a section is of unknown kind 'wars'"),
        ("[w:vars]\nx=1\n", "line 1: there is no group w"),
        ("[w:children]\nx\n", "line 2: there is no group x"),
        ("[a:children]\nb\n[b:children]\na\n[a]\nh\n", "has a group that contains itself"),
        ("h user\n", "line 1: 'user' is no variable"),
        ("h x='\n", "line 1: cannot be read"),
        ("[w]\nh\n[w:vars]\nx\n", "line 4: 'x' is no variable"),
        ("web[1:3\n", "has a range that is none"),
        ("web[9:1]\n", "has a range that is none"),
        ("web[01:100]\n", "has a range that is none"),
        ("web[1:2:0]\n", "has a range that is none"),
        ("web[0:999999999]\n", "stands for more than 10,000 hosts"),
        ("w[1:999][1:999]\n", "stands for more than 10,000 hosts"),
        ("host:\n", "is no name of a host"),
        ("---\nall:\n", "is no name of a host"),
        ({"hosts.yml": "- a\n- b\n"}, "is no host list"),
        ({"hosts.yml": ""}, "is no host list"),
        ({"hosts.yml": "plugin: aws_ec2\n"}, "lets the plugin 'aws_ec2' fetch the hosts, and nothing is executed"),
        ({"hosts.yml": "a: [\n"}, "cannot be read as YAML"),
        ({"hosts.yml": "a: !!python/object/apply:os.system ['id']\n"}, "cannot be read as YAML"),
        ({"hosts.yml": "web:\n  hosts: [a, b]\n"}, "group web: its hosts are no mapping"),
        ({"hosts.yml": "web:\n  hosts:\n    a: text\n"}, "host a: what is said of it are no variables"),
        ({"hosts.yml": "3:\n  hosts:\n    a:\n"}, "group 3: its name is no text"),
        ({"hosts.ini": "h\n", "host_vars/h": "- 1\n"}, "does not hold variables"),
        ("#!/bin/sh\necho h\n", "is a program, and nothing is executed here"),
    ],
)
def test_what_is_refused_and_named(files: Any, why: str, write: Write) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        devices(write(files))
    assert "hunter2" not in str(caught.value)
    assert caught.value.fix


def test_a_program_is_not_executed(write: Write, tmp_path: Path) -> None:
    path = write("import pathlib\n", "hosts")
    path.write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'owned')!r}).touch()\n")
    path.chmod(0o755)
    with pytest.raises(UsageError, match=r"is a program.*ansible-inventory -i .*hosts --list --yaml.*chmod -x"):
        devices(path)
    assert not (tmp_path / "owned").exists()
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("name", ["absent.ini", "."])
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is no file"):
        devices(tmp_path / name)


def test_what_is_no_text(write: Write) -> None:
    path = write("h\n")
    path.write_bytes(b"\xff\xfe\x00h")
    with pytest.raises(UsageError, match="is no text in UTF-8"):
        devices(path)
    path.write_bytes(b"#" * (reading.LARGEST + 1))
    with pytest.raises(UsageError, match="is larger than 10 MB"):
        devices(path)


def test_what_is_left_out_is_said(write: Write) -> None:
    files = {
        "hosts.yml": "web:\n  colour: red\n  hosts:\n    here: {ansible_connection: local}\n    h:\n"
        "      ansible_ssh_args: -C -o ControlMaster=auto\n      ansible_private_key_file: /no/such\nodd: 3\n",
        "host_vars/h/main.yml": "ansible_user: pi\n",
    }
    path = write(files)
    found, notes = devices(path)
    assert [entry.name for entry in found] == ["h"]
    assert found[0].key == "/no/such"
    assert [note.replace(str(path.parent), "<folder>") for note in notes] == [
        "group web: colour is not read; valid are hosts, children, vars",
        "group odd: left out, since it is no group",
        "host here: left out, since its ansible_connection is 'local' and not SSH",
        "<folder>/host_vars/h is a folder and not read",
        "host h: there is no key /no/such on this machine",
        "host h: ansible_ssh_args: -C is not taken up; ~/.ssh/config is",
        "host h: ansible_ssh_args: ControlMaster=auto is not taken up; ~/.ssh/config is",
    ]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{n}: &{n} {{<<: [{','.join(['*' + p] * 9)}]}}\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("text", [BOMB, MERGES, "a: &a [*a]\n", "a: &a {b: *a}\n"])
def test_bombs_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unfolds to more than 200,000 values"):
        yaml_data.load(text, "hosts.yml")


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000 + "x"])
def test_deep_ones_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read as YAML"):
        yaml_data.load(text, "hosts.yml")


def test_without_pyyaml_the_pip_line_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeferry\[devices\]'"):
        yaml_data.load("a: 1", "hosts.yml")


@given(first=st.integers(0, 300), count=st.integers(0, 60), step=st.integers(1, 7), wide=st.booleans())
def test_ranges_hold_both_ends(first: int, count: int, step: int, wide: bool) -> None:
    last = first + count
    width = len(str(last)) if wide else 0
    ends = f"[{first:0{width}d}:{last:0{width}d}:{step}]" if width else f"[{first}:{last}:{step}]"
    names, port = patterns.expand(f"w{ends}.lan:2222", "hosts.ini")
    assert port == 2222
    assert [int(name[1:-4]) for name in names] == list(range(first, last + 1, step))
    assert len({len(name) for name in names}) == 1 or not width


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(text=st.text(alphabet=st.sampled_from(list("ab[]:=#;\n\t '\"{}1,-!&*|%$x")), max_size=60))
@pytest.mark.parametrize("name", ["hosts.ini", "hosts.yml", "hosts"])
def test_junk_is_read_or_refused(name: str, text: str, write: Write) -> None:
    try:
        found, _ = devices(write(text, name))
    except EdgeferryError:
        return
    assert all(entry.host for entry in found)


def test_values_are_data() -> None:
    assert ini.value_of("__import__('os').system('id')") == "__import__('os').system('id')"
    assert ini.value_of("[1, 'x']") == [1, "x"]
    assert isinstance(ini.value_of("(" * 999), str)
    assert ini.parse("a\n", "x").groups[UNGROUPED].hosts == {"a": None}
