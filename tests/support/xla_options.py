"""Options of XLA that make programs compile fast, and those that a user's programs are compiled with.

It does not import JAX, which reads the flags.
"""

import importlib.metadata

# XLA's own preset for programs that run briefly halves the time in its compiler, and its older code generator for
# fusions nearly does so once more. Compiling a program in one part takes a tenth from what is left, as other tests run
# beside it. Each has its value for the tests, and its default.
_OPTIONS: dict[str, tuple[str, str]] = {
    "xla_cpu_opt_preset": ("FAST_COMPILE", "CPU_OPT_PRESET_DEFAULT"),
    "xla_cpu_parallel_codegen_split_count": ("1", "32"),
}
# XLA ends the process for a flag that it does not know. Later versions have no older code generator.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    _OPTIONS["xla_cpu_use_fusion_emitters"] = ("false", "True")


def fast_flags() -> str:
    """Returns the value of XLA_FLAGS for the tests."""
    return " ".join(f"--{name}={fast}" for name, (fast, _) in _OPTIONS.items())


def default_options() -> dict[str, str]:
    """Returns the compiler options that undo these flags, and ``jax_disable_most_optimizations``, for one program."""
    optimized = {"xla_backend_optimization_level": "3", "xla_llvm_disable_expensive_passes": "False"}
    return optimized | {name: default for name, (_, default) in _OPTIONS.items()}
