"""One header, three readers: the C compiler, cffi and the type information of the BPF object must agree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from aegis._native import _abi
from aegis.kernel import abi
from aegis.kernel.library import open_library
from aegis.kernel.object import OBJECTS

INCLUDE = Path(__file__).resolve().parents[2] / "bpf" / "include"
HEADERS = sorted((INCLUDE / "aegis").glob("*.h"))


def source_text() -> str:
    return re.sub(r"/\*.*?\*/", "", "".join(path.read_text() for path in HEADERS), flags=re.DOTALL)


STRUCTS = sorted(set(re.findall(r"^struct (aegis_\w+) \{", source_text(), flags=re.MULTILINE)))
ENUMS = sorted(set(re.findall(r"^enum (aegis_\w+) \{", source_text(), flags=re.MULTILINE)))


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Size of each struct, offset and size of each member, value of each enumerator: printed by a compiled program.

    The names come from the headers' text, so a struct that cffi or BTF does not know is missed by neither.
    """
    lines = []
    for name in STRUCTS:
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for member in abi.struct(name).offsets:
            place = f"struct {name}, {member}"
            lines.append(f'printf("{name}.{member} %zu\\n", offsetof({place}));')
            lines.append(f'printf("{name}.{member}# %zu\\n", sizeof(((struct {name} *)0)->{member}));')
    for name in ENUMS:
        lines += [f'printf("{member} %d\\n", {member});' for member in abi.enum(name)]
    directory = tmp_path_factory.mktemp("abi")
    (directory / "abi.c").write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "aegis/abi.h"\n'
        f"int main(void) {{\n{chr(10).join(lines)}\nreturn 0;\n}}\n"
    )
    subprocess.run(["cc", f"-I{INCLUDE}", "abi.c", "-o", "abi"], cwd=directory, check=True)
    printed = subprocess.run([directory / "abi"], check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in (line.split() for line in printed.splitlines())}


class Btf:
    """The type information of one object file, read through libbpf."""

    def __init__(self, path: Path) -> None:
        ffi, lib = open_library()
        self.pointer = ffi.gc(lib.btf__parse(str(path).encode(), ffi.NULL), lib.btf__free)
        assert self.pointer, path

    def text(self, offset: int) -> str:
        ffi, lib = open_library()
        return str(ffi.string(lib.btf__name_by_offset(self.pointer, offset)).decode())

    def struct(self, name: str) -> dict[str, int] | None:
        """As the compiler's fixture has it; None when the object does not carry the struct."""
        ffi, lib = open_library()
        number = lib.btf__find_by_name_kind(self.pointer, name.encode(), lib.BTF_KIND_STRUCT)
        if number < 0:
            return None
        offset, count = ffi.new("unsigned int *"), ffi.new("unsigned int *")
        lib.aegis_btf_kind(self.pointer, number, offset, count)
        found = {name: lib.btf__resolve_size(self.pointer, number)}
        member = ffi.new("struct aegis_btf_member *")
        for index in range(count[0]):
            assert lib.aegis_btf_member(self.pointer, number, index, member) == 0
            assert member.bit_offset % 8 == 0
            where = f"{name}.{self.text(member.name_offset)}"
            found[where] = member.bit_offset // 8
            found[f"{where}#"] = lib.btf__resolve_size(self.pointer, member.type)
        return found

    def enum(self, name: str) -> dict[str, int] | None:
        ffi, lib = open_library()
        number = lib.btf__find_by_name_kind(self.pointer, name.encode(), lib.BTF_KIND_ENUM)
        if number < 0:
            return None
        offset, count = ffi.new("unsigned int *"), ffi.new("unsigned int *")
        lib.aegis_btf_kind(self.pointer, number, offset, count)
        found = {}
        member = ffi.new("struct aegis_btf_enumerator *")
        for index in range(count[0]):
            assert lib.aegis_btf_enumerator(self.pointer, number, index, member) == 0
            found[self.text(member.name_offset)] = int(member.value)
        return found


@pytest.fixture(scope="module")
def btf() -> Btf:
    return Btf(OBJECTS / "abi.bpf.o")


def test_the_headers_were_found() -> None:
    assert len(STRUCTS) > 10
    assert len(ENUMS) > 5


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_is_the_same_for_compiler_cffi_and_btf(name: str, compiler: dict[str, int], btf: Btf) -> None:
    compiled = {key: value for key, value in compiler.items() if key.split(".")[0] == name}
    kind = _abi.ffi.typeof(f"struct {name}")
    by_cffi = {name: _abi.ffi.sizeof(kind)}
    for member, field in kind.fields:
        by_cffi[f"{name}.{member}"] = field.offset
        by_cffi[f"{name}.{member}#"] = _abi.ffi.sizeof(field.type)
    assert by_cffi == compiled
    assert btf.struct(name) == compiled, f"struct {name}: abi.bpf.c must instantiate it"


@pytest.mark.parametrize("name", ENUMS)
def test_enum_is_the_same_for_compiler_cffi_and_btf(name: str, compiler: dict[str, int], btf: Btf) -> None:
    declared = re.search(rf"^enum {name} \{{(.*?)\}};", source_text(), flags=re.MULTILINE | re.DOTALL)
    assert declared is not None
    members = re.findall(r"\b(AEGIS_\w+)\b(?=\s*[=,}]|\s*$)", declared[1])
    compiled = {member: compiler[member] for member in members}
    assert dict(abi.enum(name)) == compiled
    assert btf.enum(name) == compiled, f"enum {name}: abi.bpf.c must instantiate it"


@pytest.mark.parametrize("file_name", ["core.bpf.o", "observe.bpf.o"])
def test_linked_objects_have_the_same_layouts(file_name: str, btf: Btf) -> None:
    """What a program was compiled with is what user space reads; each object carries the structs it uses."""
    linked = Btf(OBJECTS / file_name)
    carried = {name: linked.struct(name) for name in STRUCTS}
    assert any(carried.values())
    for name, layout in carried.items():
        assert layout is None or layout == btf.struct(name)


def test_a_changed_layout_would_be_seen(tmp_path: Path, btf: Btf) -> None:
    """The comparison has teeth: the same struct with two members exchanged differs."""
    text = (
        "struct aegis_process { unsigned long long start_ns; unsigned int uid; unsigned int pid; };\n"
        "struct aegis_process kept;\n"
    )
    (tmp_path / "other.c").write_text(text)
    subprocess.run(
        ["clang-19", "-target", "bpf", "-g", "-O2", "-c", "other.c", "-o", "other.o"],
        cwd=tmp_path,
        check=True,
    )
    assert Btf(tmp_path / "other.o").struct("aegis_process") != btf.struct("aegis_process")
