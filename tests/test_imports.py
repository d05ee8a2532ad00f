"""Which module may use what of which: imports downward only, nothing private, and the files that travel alone."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "polyinr_hf"
# From the ground up: a room imports from the floors below it and from its own floor only if it is the same package.
FLOORS = (
    {"adaptive_rendering", "checks", "safe_pickle", "_lazy"},
    {"modeling_poly_inr"},
    {"pipeline_poly_inr"},
    {"files", "digests", "schedules", "images", "reconstruction", "feature_networks", "conversion"},
    {"data", "editing", "inversion", "evaluation", "onnx_export"},
    {"hub"},
    {"training"},
    {"benchmarks"},
)
TRAVELLING = ("adaptive_rendering.py", "checks.py", "modeling_poly_inr.py", "pipeline_poly_inr.py")
INSTALLED = {"torch", "numpy", "PIL", "diffusers", "huggingface_hub", "safetensors", *sys.stdlib_module_names}
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOT = PACKAGE.parents[1]
CODE = [*MODULES, *sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "space").glob("*.py"))]
# What other libraries name with an underscore and offer no other way to: torch, datasets, accelerate and Gradio.
PRIVATE_ELSEWHERE = {
    "_foreach_add_",
    "_foreach_lerp_",
    "_foreach_norm",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_fingerprint",
    "_resolve_features",
    "_hf_hook",
    "_data",
}


def floor_of(room: str) -> int:
    return next(height for height, rooms in enumerate(FLOORS) if room in rooms)


def imported_modules(path: Path) -> list[str]:
    """Dotted names of what a module imports, anywhere in it; relative ones as `polyinr_hf.…`."""
    package = ["polyinr_hf", *path.relative_to(PACKAGE).parent.parts]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names = [alias.name for alias in node.names]
            # `from ..package import module` imports the module; `from ..module import name` does not import a module.
            found += [".".join([*module, name]) for name in names] if module == base else [".".join(module)]
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(path) if name.startswith("polyinr_hf.")}


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in MODULES} - {"__init__"}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) != "__init__"], ids=lambda p: p.stem)
def test_imports_go_downward(path):
    room = room_of(path)
    for other in rooms_imported(path) - {room, "_lazy"}:
        assert floor_of(other) < floor_of(room), f"{path.name} ({room}) imports {other}, which is not below it"


def test_inner_imports_are_relative():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert not node.module.startswith("polyinr_hf"), f"{path}: from {node.module} import ..."


def test_modules_do_not_import_in_a_circle():
    graph = {path: set() for path in MODULES}
    by_name = {".".join(("polyinr_hf", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in MODULES}
    for path in MODULES:
        graph[path] = {by_name[name] for name in imported_modules(path) if name in by_name}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " -> ".join(p.stem for p in (*trail, path))
        if path not in done:
            for other in graph[path]:
                visit(other, (*trail, path))
            done.add(path)

    for path in MODULES:
        visit(path, ())


@pytest.mark.parametrize("name", TRAVELLING)
def test_travelling_files_import_only_what_travels_or_is_installed_with_diffusers(name):
    for module in imported_modules(PACKAGE / name):
        top = module.split(".")[0]
        if top == "polyinr_hf":
            assert f"{module.split('.')[1]}.py" in TRAVELLING, f"{name} imports {module}"
        else:
            assert top in INSTALLED, f"{name} imports {module}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_stay_in_their_module(path):
    """An underscore is of the object itself, of its module, or of a library that offers no public way."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            private = [alias.name for alias in node.names if is_private(alias.name)]
            assert not private, f"{path.name}:{node.lineno} imports {private}"
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own | PRIVATE_ELSEWHERE:
            owner = ast.unparse(node.value)
            assert owner in ("self", "cls", "super()"), f"{path.name}:{node.lineno} uses {owner}.{node.attr}"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_short(path):
    """A module is read in one sitting. The model and its pipeline travel as one file each and may be longer."""
    longer = {"modeling_poly_inr.py": 800, "pipeline_poly_inr.py": 550}
    assert len(path.read_text(encoding="utf-8").splitlines()) < longer.get(path.name, 330)
