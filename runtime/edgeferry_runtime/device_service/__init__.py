"""A server that stays: what a device does to have its bundles served, by systemd or by a process of its own.

Below the device's folder::

    service/config.json   what was asked for, and what was made for it outside of the folder
    service/token         what clients must show; only where the server is reached from other machines
    service/running       locked as long as the process in the background lives; holds its group
    service/log           what it says, and service/log.1 what it said before; only of the process in the background
"""
