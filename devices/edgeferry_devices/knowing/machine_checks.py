"""What hinders on the side of the machine: instructions, pages, folder, space, clock, power, heat and accelerators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeferry_devices.knowing.finding import Finding, failure, ok, warning

if TYPE_CHECKING:
    from edgeferry_devices.facts import Facts

NEEDED_FEATURES = ("atomics", "asimddp", "fphp")
"""What LiteRT's accelerators use without asking. A Raspberry Pi 4 and older lack all three."""

WHEEL_ALIGNMENT = 65536
"""To how many bytes the engines' wheels for Arm are aligned, read from their ELF headers: larger pages refuse them."""

INSTALL_BYTES = 150_000_000
"""LiteRT, NumPy and what they need, packed and unpacked; with ONNX Runtime 80 MB more."""

SPARE_BYTES = 50_000_000
LOW_MEMORY_BYTES = 150_000_000
DAY_S = 86400
HOT_C = 80.0


def instructions(facts: Facts) -> Iterator[Finding]:
    """Does the processor have the instructions that the engines were built for?"""
    features = facts.machine.get("features")
    if not features or facts.machine.get("arch") not in ("aarch64", "armv7l", "armv8l"):
        return
    lacking = [name for name in NEEDED_FEATURES if name not in features]
    if facts.machine.get("userland_bits") == 32:
        if "neon" not in features and "asimd" not in features:
            yield failure("instructions", "the processor lacks NEON", "use a Raspberry Pi 2 or newer")
    elif lacking:
        reason = f"the processor lacks {', '.join(lacking)}: LiteRT's accelerators would die of SIGILL; the CPU works"
        yield warning("instructions", reason, "use --delegate cpu there, which is the default")
    else:
        yield ok("instructions", f"has {', '.join(NEEDED_FEATURES)}")


def page_size(facts: Facts) -> Iterator[Finding]:
    """Do the engines load with pages of this size?"""
    size = facts.machine.get("page_size", 4096)
    if size > WHEEL_ALIGNMENT:
        fix = "boot a kernel with smaller pages"
        yield failure("page size", f"pages of {size // 1024} KiB, and the engines need 64 KiB or less", fix)
    elif size > 4096 and facts.machine.get("userland_bits") == 32:
        reason = f"pages of {size // 1024} KiB under a 32-bit system: libraries aligned to 4 KiB do not load"
        yield warning("page size", reason, "on a Raspberry Pi 5: kernel=kernel8.img in /boot/firmware/config.txt")
    elif size > 4096:
        yield ok("page size", f"{size // 1024} KiB: the engines load; a delegate library aligned to 4 KiB would not")


def folder(facts: Facts) -> Iterator[Finding]:
    """Can our folder be made and used?"""
    told, fix = facts.folder, "give the device another folder: ferry device add ... --root"
    near, options = told.get("near", facts.root), told.get("mount_options", ())
    if told.get("folder") is False:
        yield failure("folder", f"{near} is not a folder", fix)
    elif "ro" in options:
        yield failure("folder", f"{near} is read-only", f"mount it writable (sudo mount -o remount,rw ...), or {fix}")
    elif told.get("writable") is False:
        yield failure("folder", f"{near} may not be written by {told.get('user', 'this account')}", fix)
    elif near == facts.root and told.get("holds") and not told.get("ours") and not facts.runtime:
        yield failure("folder", f"{near} holds files that are not ours", fix)
    elif "noexec" in options:
        yield failure("folder", f"{near} is mounted noexec: libraries there do not load", fix)
    elif told:
        yield ok("folder", f"{facts.root} can be written")


def space(facts: Facts) -> Iterator[Finding]:
    """Is there space for what will come?"""
    free = facts.folder.get("free_bytes")
    if free is None:
        return
    needed = SPARE_BYTES if facts.runtime else INSTALL_BYTES
    reason = f"{free / 1e6:,.0f} MB free in {facts.folder.get('mount', facts.root)}"
    fix = "free some space there, or give the device another --root"
    if free < needed:
        why = "a bundle" if facts.runtime else "the runtime and an engine"
        yield failure("space", f"{reason}, and {why} may need {needed / 1e6:.0f} MB", fix)
    elif free < 2 * needed:
        yield warning("space", f"{reason}, which is not much", fix)
    else:
        yield ok("space", reason)


def memory(facts: Facts) -> Iterator[Finding]:
    """Is there memory for an engine?"""
    free = facts.state.get("memory_available_bytes")
    if free is not None and free < LOW_MEMORY_BYTES:
        reason = f"{free / 1e6:.0f} MB of memory are available, and an engine alone takes about 100 MB"
        yield warning("memory", reason, "end other programs there, or add swap")
    elif free is not None:
        yield ok("memory", f"{free / 1e6:,.0f} MB available")


def clock(facts: Facts) -> Iterator[Finding]:
    """Is the clock right? A board without a battery begins in 1970, or where it was switched off."""
    skew = facts.state.get("clock_skew_s")
    if skew is None:
        return
    reason = f"the clock is {_duration(abs(skew))} {'ahead' if skew > 0 else 'behind'}"
    fix = "set it: sudo date -s @$(date +%s), or enable NTP there (sudo timedatectl set-ntp true)"
    if abs(skew) > 365 * DAY_S:
        yield failure("clock", f"{reason}: certificates, dates of releases and archives would be wrong", fix)
    elif abs(skew) > 60:
        yield warning("clock", f"{reason}: dates of releases and profiles would be wrong", fix)
    else:
        yield ok("clock", "agrees with this machine's")


def _duration(seconds: float) -> str:
    for size, name in ((365 * DAY_S, "years"), (DAY_S, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def power(facts: Facts) -> Iterator[Finding]:
    """Is the power supply strong enough, and was the processor held back?"""
    told = facts.state.get("throttled")
    if told is None:
        return
    now = [word for word in told if not word.endswith("since boot")]
    if any(word.startswith("under-voltage") for word in told):
        reason = f"under-voltage {'now' if 'under-voltage' in now else 'since boot'}: it is slowed and may reset itself"
        yield warning("power", reason, "use the power supply made for this board, and a short cable")
    elif told:
        yield warning("power", f"{', '.join(told)}: measurements will be slower", "cool the board")
    else:
        yield ok("power", "neither under-voltage nor throttling since boot")


def heat(facts: Facts) -> Iterator[Finding]:
    """Is it too hot to measure?"""
    degrees = facts.state.get("temperature_c")
    if degrees is not None and degrees >= HOT_C:
        yield warning("heat", f"{degrees:.0f} degrees: it is, or will be, slowed", "cool it, or wait: --cool-to 60")
    elif degrees is not None:
        yield ok("heat", f"{degrees:.0f} degrees")


def governor(facts: Facts) -> Iterator[Finding]:
    """Does the processor run as fast as it can?"""
    told = facts.state.get("governor")
    if told == "powersave":
        fix = "echo ondemand | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield warning("governor", "powersave: the processor stays at its lowest frequency", fix)
    elif told:
        yield ok("governor", str(told))


def accelerators(facts: Facts) -> Iterator[Finding]:
    """Can the accelerators that are there be used?"""
    found = [*facts.accelerators.get("nodes", ()), *facts.accelerators.get("usb", ())]
    libraries = facts.accelerators.get("libraries", {})
    for node in found:
        name = f"{node['kind']} ({node.get('path') or node['id']})"
        if not node["usable"]:
            group = node.get("group", "plugdev")
            user = facts.folder.get("user", "the account")
            reason = f"{name} may not be opened by {user}"
            yield warning("accelerators", reason, f"sudo usermod -aG {group} {user}, then connect again")
        elif node["kind"] == "Edge TPU" and "libedgetpu" not in libraries:
            yield warning("accelerators", f"{name} has no libedgetpu.so.1", "install libedgetpu1-std there")
        elif node["kind"] == "GPU" and not _accelerated(facts):
            continue
        elif node["kind"] == "GPU" and "libvulkan" not in libraries:
            reason = f"{name} has no libvulkan.so.1, which --delegate gpu needs"
            yield warning("accelerators", reason, "install it there (Debian: libvulkan1 mesa-vulkan-drivers)")
        else:
            yield ok("accelerators", name)


def _accelerated(facts: Facts) -> bool:
    """Whether LiteRT's accelerators run there at all; where they do not, `instructions` or `engines` has said so."""
    features = facts.machine.get("features") or NEEDED_FEATURES
    arm = facts.machine.get("arch") == "aarch64"
    return facts.machine.get("userland_bits") != 32 and (not arm or set(NEEDED_FEATURES) <= set(features))
