"""What LiteRT's accelerators say on stderr, as it was recorded, and what is made of it."""

from __future__ import annotations

import pytest

from edgeferry_runtime.engines import LeftBehind
from edgeferry_runtime.engines import litert_reasons as reasons

CHOSEN = (
    "WARNING: Logging before InitGoogle() is written to STDERR\n"
    "I0000 00:00:1795324954.317600    5938 environment.cc:532] Selected adapter: llvmpipe (LLVM 15.0.6, 256 bits), "
    "arch=software, vendor=mesa, backend=Vulkan, adapterType=CPU / Software\n"
)
REAL = "I0 x.cc:532] Selected adapter: V3D 7.1.7, arch=v3d, vendor=brcm, backend=Vulkan, adapterType=Integrated GPU"
PARTIAL = CHOSEN + (
    "ERROR: Following operations are not supported by GPU delegate:\n"
    "ZEROS_LIKE: Operation is not supported.\n"
    "TOPK_V2: Only one output is supported.\n"
    "1 operations will run on the GPU, and the remaining 2 operations will run on the CPU.\n"
    "I0000 00:00:1795325009.032177    7626 delegate_kernel.cc:984] Initializing WebGPU-based API from graph.\n"
)
NO_DRIVER = (
    "Warning: vkCreateInstance: Found no drivers!\n"
    "Warning: vkCreateInstance failed with VK_ERROR_INCOMPATIBLE_DRIVER\n"
    "    at CheckVkSuccessImpl (third_party/dawn/src/dawn/native/vulkan/VulkanError.cpp:106)\n\n"
    "ERROR: [delegate_webgpu.cc:359] Failed to initialize WebGPU environment: INTERNAL: No adapters found\n"
)
NO_LIBRARY = "Warning: Couldn't load Vulkan. Searched libvulkan.so.1.\n"
OLD_DRIVER = "Warning: Vulkan shaderUniform*ArrayDynamicIndexing required.\nERROR: INTERNAL: No adapters found\n"
NO_PLUGIN = (
    "WARNING: [compiler_plugin.cc:312] Failed to load plugin at: /p/libPlugin_X.so with error: ERROR: [a:1]\n"
    "└ Could not load shared library /p/libPlugin_X.so: libopenvino.so: cannot open shared object file.\n"
    "WARNING: [compiled_model.cc:1393] Failed to apply compiler plugins: No compiler plugin found\n"
)
ERROR = "ERROR: [./litert/cc/litert_compiled_model.h:1961]\n└ Some ops are not accelerated. Add kLiteRtHwAcceleratorCpu"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (CHOSEN, "llvmpipe (LLVM 15.0.6, 256 bits), WebGPU on Vulkan, software on the CPU"),
        (REAL, "V3D 7.1.7, WebGPU on Vulkan"),
        (NO_DRIVER, None),
        ("", None),
    ],
)
def test_the_adapter_is_the_evidence(said: str, name: str | None) -> None:
    assert reasons.adapter(said) == name


def test_operators_that_the_gpu_does_not_take() -> None:
    why = {"ZEROS_LIKE": "Operation is not supported", "TOPK_V2": "Only one output is supported"}
    assert reasons.unsupported(PARTIAL) == why
    assert reasons.gpu_share(PARTIAL) == (1, 2)
    behind = reasons.left_behind(["ADD", "ZEROS_LIKE", "ADD", "TOPK_V2", "ZEROS_LIKE"], why)
    assert behind == (LeftBehind("ZEROS_LIKE", 2, why["ZEROS_LIKE"]), LeftBehind("TOPK_V2", 1, why["TOPK_V2"]))


def test_a_gpu_that_takes_all_says_nothing() -> None:
    assert reasons.unsupported(CHOSEN) == {}
    assert reasons.gpu_share(CHOSEN) is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (NO_DRIVER, "LiteRT finds no GPU (vkCreateInstance: Found no drivers!)"),
        (NO_LIBRARY, "LiteRT finds no GPU (Couldn't load Vulkan. Searched libvulkan.so.1)"),
        (OLD_DRIVER, "LiteRT finds no GPU (Vulkan shaderUniform*ArrayDynamicIndexing required)"),
        ("", "LiteRT refuses it: Some ops are not accelerated. Add kLiteRtHwAcceleratorCpu"),
    ],
)
def test_why_there_is_no_gpu(said: str, reason: str) -> None:
    assert reasons.gpu_refusal(said, ERROR) == reason


def test_a_gpu_that_takes_only_some_nodes_is_named_with_them() -> None:
    reason = reasons.gpu_refusal(PARTIAL, ERROR)
    assert "software on the CPU takes 1 of 3 nodes, and all are needed" in reason
    assert "ZEROS_LIKE: Operation is not supported, TOPK_V2: Only one output is supported" in reason


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            NO_PLUGIN,
            "LiteRT finds no NPU (libPlugin_X.so: libopenvino.so: cannot open shared object file)",
        ),
        ("No compiler plugin found", "LiteRT finds no NPU"),
        ("", "LiteRT refuses it: Some ops are not accelerated. Add kLiteRtHwAcceleratorCpu"),
    ],
)
def test_why_there_is_no_npu(said: str, reason: str) -> None:
    assert reasons.npu_refusal(said, ERROR) == reason


def test_an_error_without_words() -> None:
    assert reasons.gpu_refusal("", "ERROR: [a.h:1]\n└ ERROR: [b.cc:2]") == "LiteRT refuses it: it does not say why"
