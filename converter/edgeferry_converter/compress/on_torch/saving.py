"""Writes a module as others read it: an exported program, its weights, and code that makes it from its factory."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress.on_torch.sizes import own_values
from edgeferry_converter.quiet import foreign
from edgeferry_converter.sources.torch_lowering import resize_batch

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_torch.network import TorchNetwork

PROGRAM, WEIGHTS, CODE = "model.pt2", "weights.safetensors", "model.py"

TEMPLATE = '''"""The module of a factory, resized and given its weights. Plain PyTorch."""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
FACTORY = json.loads({factory})
"""The Python file with the original module, and what is called in it. Change the path if the file has moved."""
IMPORTS_FROM = str(Path(FACTORY["path"]).parent)
"""Where the modules lie that the original imports from beside it."""
SIZES = json.loads({sizes})
"""By module, the attributes that are smaller than in the original."""
SHARED = json.loads({shared})
"""Parameters that are another one under a second name."""
EXAMPLES = json.loads({examples})
"""By input, shape and dtype."""


def model():
    """Return the module with its weights, ready for inference; call its train() to go on training."""
    module = original()
    for name, attributes in SIZES.items():
        for key, value in attributes.items():
            setattr(module.get_submodule(name), key, tuple(value) if isinstance(value, list) else value)
    for name, tensor in load_file(HERE / "{weights}").items():
        owner, _, own = name.rpartition(".")
        part = module.get_submodule(owner)
        before = getattr(part, own)
        if isinstance(before, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, before.requires_grad)
        setattr(part, own, tensor)
    for name, other in SHARED.items():
        owner, _, own = name.rpartition(".")
        setattr(module.get_submodule(owner), own, module.get_parameter(other))
    return module.eval()


def with_examples():
    """Return the module and example inputs by name."""
    return model(), {{k: torch.zeros(shape, dtype=getattr(torch, dtype)) for k, (shape, dtype) in EXAMPLES.items()}}


def original():
    """Return the module as its own factory makes it."""
    spec = importlib.util.spec_from_file_location(__name__ + "_original", FACTORY["path"])
    code = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = code
    sys.path.insert(0, IMPORTS_FROM)
    try:
        spec.loader.exec_module(code)
        made = getattr(code, FACTORY["factory"])()
    finally:
        sys.path.remove(IMPORTS_FROM)
    return made[0] if isinstance(made, tuple) else made
'''
"""What `CODE` says; all that comes from the model goes into it as JSON, quoted."""


def save(network: TorchNetwork, folder: Path) -> Path:
    """Write ``weights.safetensors``, ``model.py`` and ``model.pt2`` into a folder.

    The program has a dynamic batch where the inputs have one. ``model.py`` makes the ``nn.Module`` again, if it still
    has the values of the factory that it was read from, and needs no Edgeferry.

    Raises:
        ConversionError: If the module cannot be exported; its weights are written then.
    """
    weights(network, folder / WEIGHTS)
    if network.origin is not None and network.origin.names == set(network.module.state_dict()):
        (folder / CODE).write_text(code(network), encoding="utf-8")
    path = folder / PROGRAM
    fix = f"its weights are in {folder / WEIGHTS}; give the batch a fixed size, or run again with -v"
    with foreign(network.name, "torch.export could not save it", fix):
        import torch

        torch.export.save(exported(network), path)
    return path


def weights(network: TorchNetwork, path: Path) -> None:
    """Write every stored value by name, shared ones under each of their names."""
    from safetensors.torch import save_file

    state = network.module.state_dict()
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, path)


def exported(network: TorchNetwork) -> Any:
    """Return the program of the module in inference, on the CPU."""
    import torch
    from torch.utils import _pytree as pytree

    module = copy.deepcopy(network.module).cpu().eval()
    examples, dynamic = [], []
    for example, spec in zip(network.call.examples, network.inputs, strict=True):
        batched = spec.shape[:1] == (-1,)
        examples.append(resize_batch(example.cpu(), 2) if batched else example.cpu())
        dynamic.append({0: torch.export.Dim.DYNAMIC} if batched else None)
    args, kwargs = pytree.tree_unflatten(examples, network.call.structure)
    places, names = pytree.tree_unflatten(list(range(len(dynamic))), network.call.structure)
    shapes = pytree.tree_map(dynamic.__getitem__, (tuple(places), dict(names)))
    by_name = {**dict(zip(_parameters(module), shapes[0], strict=False)), **shapes[1]}
    return torch.export.export(module, tuple(args), dict(kwargs), dynamic_shapes=by_name)


def _parameters(module: Any) -> list[str]:
    import inspect

    return list(inspect.signature(module.forward).parameters)


def code(network: TorchNetwork) -> str:
    """Return Python code that makes the module again.

    Args:
        network: That has an origin.
    """
    assert network.origin is not None
    examples = zip(network.inputs, network.call.examples, strict=True)
    return TEMPLATE.format(
        factory=_quoted({"path": str(network.origin.path), "factory": network.origin.factory}),
        sizes=_quoted(network.numbers),
        shared=_quoted(shared(network.module)),
        examples=_quoted({spec.name: [list(example.shape), spec.dtype] for spec, example in examples}),
        weights=WEIGHTS,
    )


def shared(module: Any) -> dict[str, str]:
    """Return by name of a parameter the first name that the same parameter has, where that is another."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for part_name, part in module.named_modules(remove_duplicate=False):
        for own in own_values(part):
            name = f"{part_name}.{own}" if part_name else own
            known = first.setdefault(id(getattr(part, own)), name)
            if known != name:
                found[name] = known
    return found


def _quoted(value: Any) -> str:
    """Return data as a Python string of JSON, in which nothing can be code."""
    return repr(json.dumps(value, default=dict))
