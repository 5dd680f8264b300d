"""Three native builds: Cython modules, the cffi module over libbpf, and the BPF objects.

    python setup.py build_ext --inplace      everything, beside its source; does nothing when nothing changed
    AEGIS_NATIVE=seal,records,_libbpf,bpf python setup.py build_ext --inplace      only these

Metadata is in pyproject.toml. A `.pyx` names its own libraries in a `# distutils:` line; C files beside it that
begin with its name (`ringbuf_loop.c` for `ringbuf.pyx`) are compiled into it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import py_compile
import shutil
import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NATIVE = Path("aegis/_native")
INCLUDE = Path("bpf/include")
SOURCES = Path("bpf/src")
OBJECTS = Path("aegis/bpf")
MANIFEST = "objects.json"
BUILD = Path("build/bpf")

# `core` and `observe` include their subject files, so that each is one translation unit; `abi` only carries the shared
# types into BTF.
LINKED = ("abi", "core", "observe")
COMPILE_ARGS = ["-O2", "-g0", "-fvisibility=hidden"]
BPF_FLAGS = ["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror"]
TARGET_ARCH = {"x86_64": "x86", "aarch64": "arm64"}
ONLY = frozenset(filter(None, os.environ.get("AEGIS_NATIVE", "").split(",")))


def wanted(name: str) -> bool:
    return not ONLY or name in ONLY


def headers() -> list[Path]:
    return sorted(INCLUDE.rglob("*.h"))


def pkg_config(option: str) -> list[str]:
    """Words pkg-config prints for libbpf; none where it is in the compiler's own paths."""
    output = subprocess.run(
        ["pkg-config", option, "libbpf >= 1.1"], check=True, capture_output=True, text=True
    ).stdout
    return output.split()


def tool(name: str) -> str:
    """The pinned major version of an LLVM tool, else the unversioned one."""
    for candidate in (f"{name}-19", name):
        found = shutil.which(candidate)
        if found:
            return found
    raise SystemExit(f"setup.py: {name}-19 is missing; ./dev setup installs it")


def cython_extensions() -> list[Extension]:
    extensions = [
        Extension(
            f"aegis._native.{source.stem}",
            [str(source), *(str(path) for path in sorted(NATIVE.glob(f"{source.stem}_*.c")))],
            include_dirs=[str(INCLUDE), str(NATIVE)],
        )
        for source in sorted(NATIVE.glob("*.pyx"))
        if wanted(source.stem)
    ]
    if not extensions:
        return []
    return cythonize(
        extensions,
        build_dir="build/cython",
        compiler_directives={"language_level": 3},
        emit_linenums=False,
        quiet=True,
    )


def cffi_modules() -> list[str]:
    """NAME_build.py makes aegis._native._NAME."""
    scripts = sorted(NATIVE.glob("*_build.py"))
    return [f"{path}:ffibuilder" for path in scripts if wanted(f"_{path.stem.removesuffix('_build')}")]


def multiarch_include() -> list[str]:
    """Where Debian keeps <asm/types.h>; the BPF target does not look there by itself."""
    directory = Path("/usr/include") / f"{platform.machine()}-linux-gnu"
    return ["-idirafter", str(directory)] if directory.is_dir() else []


def probes() -> list[str]:
    """Programs of the tests and benchmarks: made in place, not shipped."""
    return sorted(path.name.removesuffix(".bpf.c") for path in SOURCES.glob("probe_*.bpf.c"))


def compile_object(source: Path, flags: list[str], output: Path) -> bool:
    commands = [
        [tool("clang"), *flags, "-c", str(source), "-o", str(output)],
        [tool("llvm-strip"), "-g", str(output)],
    ]
    return all(subprocess.run(command, check=False).returncode == 0 for command in commands)


def bpf_flags() -> list[str]:
    return [
        *BPF_FLAGS,
        f"-D__TARGET_ARCH_{TARGET_ARCH[platform.machine()]}",
        f"-I{INCLUDE}",
        *pkg_config("--cflags"),
        *multiarch_include(),
        f"-ffile-prefix-map={ROOT}=.",
        "-fdebug-compilation-dir=.",
    ]


def build_objects(names: list[str], destination: Path) -> None:
    """Compile into build/bpf what is not of these inputs yet, then put objects and hashes to `destination`.

    What compiles is put there even when another object does not.
    """
    flags = bpf_flags()
    compiler = subprocess.run([tool("clang"), "--version"], check=True, capture_output=True, text=True).stdout
    inputs = hashlib.sha256("\0".join([*flags, compiler]).encode())
    for path in [*headers(), *sorted(SOURCES.glob("*"))]:
        inputs.update(path.as_posix().encode() + b"\0" + path.read_bytes())
    hashes: dict[str, str] = {}
    failed: list[str] = []
    for name in names:
        source, built, stamp = SOURCES / f"{name}.bpf.c", BUILD / f"{name}.bpf.o", BUILD / f"{name}.inputs"
        if not built.exists() or not stamp.exists() or stamp.read_text() != inputs.hexdigest():
            print(f"compiling {source}", flush=True)
            stamp.unlink(missing_ok=True)
            if not compile_object(source, flags, built):
                failed.append(str(source))
                continue
            stamp.write_text(inputs.hexdigest())
        hashes[built.name] = hashlib.sha256(built.read_bytes()).hexdigest()
    destination.mkdir(parents=True, exist_ok=True)
    for stale in destination.glob("*.bpf.o"):
        if stale.name not in hashes:
            stale.unlink()
    for file_name in hashes:
        replace_when_different(destination / file_name, (BUILD / file_name).read_bytes())
    replace_when_different(destination / MANIFEST, (json.dumps(hashes, indent=2) + "\n").encode())
    if failed:
        raise SystemExit(f"setup.py: does not compile: {', '.join(failed)}")


def replace_when_different(path: Path, content: bytes) -> None:
    """By rename: a running agent may have the old file open."""
    if path.exists() and path.read_bytes() == content:
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)


class BuildNative(build_ext):
    """build_ext that also makes the BPF objects and rebuilds an extension when a shared header changes."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        for extension in self.extensions or []:
            extension.extra_compile_args = [*COMPILE_ARGS, *extension.extra_compile_args]
            extension.depends = sorted({*extension.depends, *map(str, headers())})

    def run(self) -> None:
        inplace = self.inplace
        super().run()
        if not wanted("bpf"):
            return
        if inplace:
            build_objects([*LINKED, *probes()], OBJECTS)
        else:
            build_objects(list(LINKED), Path(self.build_lib) / OBJECTS)


class BuildPython(build_py):
    """build_py that leaves out the build scripts and ships byte code.

    Without byte code a first start on a small host takes several times as long. It is of the unchecked kind: files of
    a wheel do not change, and an installation that cannot write beside them never compiles again.
    """

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [entry for entry in found if not entry[1].endswith("_build")]

    def run(self) -> None:
        super().run()
        for source in sorted(Path(self.build_lib).rglob("*.py")):
            py_compile.compile(
                str(source),
                dfile=source.relative_to(self.build_lib).as_posix(),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


os.chdir(ROOT)
BUILD.mkdir(parents=True, exist_ok=True)
one_at_a_time = (BUILD.parent / "lock").open("w")  # two builds in one tree would write the same files
fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
setup(
    ext_modules=cython_extensions(),
    cffi_modules=cffi_modules(),
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython},
)
