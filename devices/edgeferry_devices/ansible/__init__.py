"""Host lists of Ansible's: read as data, never executed."""
