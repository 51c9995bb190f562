"""Public names arrive when they are used."""

from __future__ import annotations

import pytest

from edgeferry_runtime.lazy import lazy


def test_a_name_is_imported_from_its_home() -> None:
    from edgeferry_runtime.errors import EdgeferryError

    find, names = lazy("edgeferry_runtime", {"EdgeferryError": "errors"})
    assert find("EdgeferryError") is EdgeferryError
    assert names() == ["EdgeferryError"]


def test_another_name_is_an_attribute_error_that_names_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'edgeferry_runtime' has no attribute 'nothing'"):
        lazy("edgeferry_runtime", {})[0]("nothing")


def test_every_public_name_of_every_package_is_there() -> None:
    import edgeferry_converter
    import edgeferry_devices
    import edgeferry_runtime

    for package in (edgeferry_runtime, edgeferry_converter, edgeferry_devices):
        assert all(getattr(package, name) is not None for name in package.__all__)
