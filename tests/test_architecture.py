"""The rules of the house, read from the sources: which way imports look, where they stand, how long they get.

Every rule is a function from a path and its text to a list of complaints. One test applies it to the project,
one beside it to a made-up file that breaks it, so that no rule can rot into one that never complains.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "znn_dask"

BASE = {"base"}
LEAVES = {"net", "ops", "sched", "io"}
BELOW_MODEL = BASE | LEAVES | {"lower", "tune", "exchange"}
# What each layer may import besides itself; the picture in ARCHITECTURE says the same.
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "net": BASE,
    "ops": BASE | {"_kernels"},
    "sched": BASE,
    "io": BASE,
    "lower": BASE | {"net", "ops"},
    "exchange": BASE | {"net", "io"},
    "tune": BASE | {"ops", "io", "lower"},
    "model": BELOW_MODEL,
    "infer": BELOW_MODEL | {"model"},
    "train": BELOW_MODEL | {"model", "infer", "viz"},
    "cluster": BELOW_MODEL | {"model", "infer", "train"},
    "viz": BASE | {"net", "lower"},
    "face": BELOW_MODEL | {"model", "infer", "train", "cluster", "viz"},
    "cli": BELOW_MODEL | {"model", "infer", "train", "cluster", "viz", "face"},
}
BASE_MODULES = {"geometry", "tasks", "errors", "config", "randomness", "cpus"}
CLI_MODULES = {"cli", "commands", "__main__"}
# Extras that a user may lack: imported late or guarded, never needed to start.
OPTIONAL = {"torch", "onnx", "onnxscript", "zarr", "distributed", "graphviz", "fsspec", "tensorboardX"}
IMPORTING_CALLS = {"__import__", "import_module", "importlib.import_module"}
GUARDS = ("TYPE_CHECKING", "find_spec")
MOST_LINES = 400
MOST_FUNCTION_LINES = 50
# The workers' loop: in Python a call costs as much as all that the loop does for a task.
MAY_BE_LONG = {("znn_dask/sched/run.py", "work")}
# A trace and a simulation are drawn by methods of their own, and matplotlib would cost every program half a second at
# its start. So these imports, which look up, stand below the top of their files.
DRAWN_LATE = {
    ("znn_dask/sched/trace.py", "znn_dask.viz.timeline"),
    ("znn_dask/sched/simulation.py", "znn_dask.viz.speedup"),
}
# These import by name when a user asks for a name or a command, so that `znn-dask --help` need not wait for scipy.
NAMES_LATE = {"znn_dask/__init__.py", "znn_dask/cli.py"}
# Folders of one machine that no file may name, and data that only the integration script may.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|work|root|Users)/\w[\w./-]*")
SHARED_DATA = re.compile(r"\.\./shared\b")


def layer(path: str) -> str:
    """Return the layer of a module given by its path from the root."""
    parts = Path(path).with_suffix("").parts[1:]
    if parts[0] == "__init__":
        return "face"
    if parts[0] in BASE_MODULES:
        return "base"
    return "cli" if parts[0] in CLI_MODULES else parts[0]


def layer_of_import(module: str) -> str:
    """Return the layer of an imported module such as ``znn_dask.net.graph``."""
    rest = module.split(".")[1:]
    return layer("/".join([PACKAGE, *rest])) if rest else "face"


def imports(path: str, source: str) -> list[tuple[int, str]]:
    """Return (line, full name) of every import; ``from znn_dask import net`` counts as znn_dask.net."""
    found = []
    package = Path(path).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names]
            found += [(node.lineno, f"{module}.{name}" if module == PACKAGE else module) for name in names]
    return sorted(set(found))


def looks_up(path: str, source: str) -> list[str]:
    """Complain about imports of a layer that is not below."""
    mine = layer(path)
    complaints = []
    for line, module in imports(path, source):
        if module.split(".")[0] != PACKAGE:
            continue
        other = layer_of_import(module)
        if other not in {mine, *MAY_IMPORT.get(mine, set())} and (path, module) not in DRAWN_LATE:
            complaints.append(f"{path}:{line} {mine} imports {module}, which is not below it")
    return complaints if mine in MAY_IMPORT else [f"{path} is in no layer of the table"]


def reaches_numpy(modules: dict[str, str]) -> list[str]:
    """Complain about modules of net, among paths and texts, that import numpy directly or through others."""
    named = {str(Path(path).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path for path in modules}
    complaints = []
    for path in (path for path in modules if layer(path) == "net"):
        seen, left = set(), [path]
        while left:
            here = left.pop()
            seen.add(here)
            for line, module in imports(here, modules[here]):
                if module.split(".")[0] == "numpy":
                    complaints.append(f"{path} imports numpy at {here}:{line}")
                if named.get(module) not in (None, *seen):
                    left.append(named[module])
    return sorted(set(complaints))


def late_imports(path: str, source: str) -> list[str]:
    """Complain about imports below the top of a file, unless of an optional extra."""
    tree = ast.parse(source)
    top = set(_imports_at_top(tree.body))
    complaints = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in top:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."]
            late = [n for n in names if n.split(".")[0] not in OPTIONAL and (path, n) not in DRAWN_LATE]
            complaints += [f"{path}:{node.lineno} imports {name} below the top of the file" for name in late]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTING_CALLS:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else "?"
            if str(name).split(".")[0] not in OPTIONAL and not (name == "?" and path in NAMES_LATE):
                complaints.append(f"{path}:{node.lineno} imports {name} by a call")
    return complaints


def _imports_at_top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
        if isinstance(statement, ast.Try):
            yield from _imports_at_top(statement.body)
            for handler in statement.handlers:
                yield from _imports_at_top(handler.body)
        if isinstance(statement, ast.If) and any(guard in ast.unparse(statement.test) for guard in GUARDS):
            yield from _imports_at_top(statement.body)


def needs_extra(path: str, source: str) -> list[str]:
    """Complain about optional extras that are imported at the top without a guard."""
    return [
        f"{path}:{node.lineno} cannot be imported without the optional {name}"
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."])
        if name.split(".")[0] in OPTIONAL
    ]


def draws_at_start(path: str, source: str) -> list[str]:
    """Complain if an import that may look up stands at the top of its file."""
    top = set(_imports_at_top(ast.parse(source).body))
    found = [node for node in top if isinstance(node, ast.ImportFrom) and (path, node.module) in DRAWN_LATE]
    return [f"{path}:{node.lineno} imports {node.module} at the start" for node in found]


def too_long(path: str, source: str) -> list[str]:
    """Complain about a file of 400 lines or more."""
    count = len(source.splitlines())
    return [f"{path} has {count} lines; {MOST_LINES - 1} are the most"] if count >= MOST_LINES else []


def long_functions(path: str, source: str) -> list[str]:
    """Complain about functions of 50 lines or more, not counting the docstring."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                count -= node.body[0].end_lineno - node.body[0].lineno + 1
            if count >= MOST_FUNCTION_LINES and (path, node.name) not in MAY_BE_LONG:
                complaints.append(f"{path}:{node.lineno} {node.name} has {count} lines without its docstring")
    return complaints


def names_machine(path: str, source: str) -> list[str]:
    """Complain about folders of one machine, and about shared data outside the integration script."""
    complaints = []
    for number, line in enumerate(source.splitlines(), start=1):
        found = MACHINE_PATH.search(line) or (path != ".ci/run" and SHARED_DATA.search(line))
        if found:
            complaints.append(f"{path}:{number} names {found[0]}")
    return complaints


def project_files() -> dict[str, str]:
    """Return path to text of every file of the project: what git tracks or would; all where git is absent."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        names = set(done.stdout.split("\0")) - {""}
    except (OSError, subprocess.CalledProcessError):
        names = {str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if not _is_product(p.relative_to(ROOT))}
    files = {}
    for name in sorted(names):
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in data:
            files[name] = data.decode("utf-8", errors="replace")
    return files


def _is_product(path: Path) -> bool:
    return any(part in (".venv", ".git", "build", "dist", "__pycache__") or part.startswith(".") for part in path.parts)


FILES = project_files()
PYTHON = {path: text for path, text in FILES.items() if path.endswith(".py")}
MODULES = {path: text for path, text in PYTHON.items() if path.startswith(f"{PACKAGE}/")}
LIMITED = {path: text for path, text in FILES.items() if path in PYTHON or path.startswith("kernels/")}


def complaints(rule, files: dict[str, str]) -> list[str]:
    return [complaint for path, text in files.items() for complaint in rule(path, text)]


def test_there_is_something_to_check():
    assert f"{PACKAGE}/net/graph.py" in MODULES
    assert "tests/test_architecture.py" in LIMITED
    assert {layer(path) for path in MODULES} >= {"base", "net"}


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (looks_up, MODULES),
        (late_imports, MODULES),
        (needs_extra, MODULES),
        (draws_at_start, MODULES),
        (too_long, LIMITED),
        (long_functions, PYTHON),
        (names_machine, FILES),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_project_keeps_the_rule(rule, files):
    assert files
    assert complaints(rule, files) == []


def test_net_does_without_numpy():
    assert reaches_numpy(MODULES) == []


def function_of(count: int, docstring: int = 0) -> str:
    head = ["def f():", '    """Say.', *["    more"] * (docstring - 2), '    """'] if docstring else ["def f():"]
    return "\n".join([*head, *["    a = 1"] * (count - 1)]) + "\n"


# A separator keeps the made-up paths from being found in this very file.
SLASH = "/"

BAD = [
    (looks_up, "znn_dask/net/a.py", "from znn_dask.ops import conv"),
    (looks_up, "znn_dask/net/a.py", "import znn_dask.sched.run"),
    (looks_up, "znn_dask/ops/a.py", "from znn_dask import net"),
    (looks_up, "znn_dask/ops/a.py", "from znn_dask.io.volumes import read"),
    (looks_up, "znn_dask/sched/a.py", "def f():\n    from znn_dask.net import Network"),
    (looks_up, "znn_dask/sched/a.py", "def f():\n    from znn_dask.viz.timeline import timeline"),
    (looks_up, "znn_dask/sched/trace.py", "def f():\n    from znn_dask.viz.pictures import curve_picture"),
    (looks_up, "znn_dask/sched/trace.py", "def f():\n    from znn_dask.viz.speedup import speedup_picture"),
    (looks_up, "znn_dask/io/a.py", "from ..model import Model"),
    (looks_up, "znn_dask/lower/a.py", "from znn_dask.sched import get"),
    (looks_up, "znn_dask/lower/a.py", "from znn_dask import _kernels"),
    (looks_up, "znn_dask/model.py", "import znn_dask._kernels"),
    (looks_up, "znn_dask/model.py", "from znn_dask.infer import predict"),
    (looks_up, "znn_dask/model.py", "import znn_dask"),
    (looks_up, "znn_dask/infer/a.py", "from znn_dask.train import loop"),
    (looks_up, "znn_dask/viz/a.py", "from znn_dask.model import Model"),
    (looks_up, "znn_dask/train/a.py", "from znn_dask.cli import main"),
    (looks_up, "znn_dask/geometry.py", "from znn_dask.net import Network"),
    (looks_up, "znn_dask/helpers/a.py", "import math"),
    (late_imports, "znn_dask/net/a.py", "def f():\n    import math"),
    (late_imports, "znn_dask/net/a.py", "def f():\n    pass\nimport math"),
    (late_imports, "znn_dask/model/a.py", "def f():\n    from znn_dask.viz.timeline import timeline"),
    (late_imports, "znn_dask/net/a.py", "if True:\n    import math"),
    (late_imports, "znn_dask/net/a.py", "import importlib\nx = importlib.import_module('math')"),
    (needs_extra, "znn_dask/io/a.py", "import zarr.storage"),
    (needs_extra, "znn_dask/io/a.py", "from torch import nn"),
    (draws_at_start, "znn_dask/sched/trace.py", "from znn_dask.viz.timeline import timeline"),
    (too_long, "kernels/a.cpp", "\n" * 400),
    (long_functions, "znn_dask/net/a.py", function_of(50)),
    (
        long_functions,
        "znn_dask/net/a.py",
        "class A:\n" + "".join(f"    {x}\n" for x in function_of(50).splitlines()),
    ),
    (names_machine, "README.md", f"see {SLASH}home{SLASH}somebody{SLASH}data"),
    (names_machine, "a.yaml", f"path: {SLASH}work{SLASH}main"),
    (names_machine, "tests/a.py", f"DATA = '..{SLASH}shared{SLASH}data'"),
]

GOOD = [
    (
        looks_up,
        "znn_dask/net/a.py",
        "import math\nfrom znn_dask.errors import ZnnError\nfrom znn_dask.net import b",
    ),
    (looks_up, "znn_dask/ops/a.py", "from znn_dask import _kernels\nfrom znn_dask.tasks import fresh"),
    (looks_up, "znn_dask/lower/a.py", "from znn_dask import net, ops"),
    (looks_up, "znn_dask/commands/a.py", "import znn_dask\nfrom znn_dask.viz import curve"),
    (looks_up, "znn_dask/sched/trace.py", "def f():\n    from znn_dask.viz.timeline import timeline"),
    (late_imports, "znn_dask/sched/trace.py", "def f():\n    from znn_dask.viz.timeline import timeline"),
    (late_imports, "znn_dask/io/a.py", "def f():\n    import zarr\n    from torch import nn"),
    (late_imports, "znn_dask/io/a.py", "try:\n    import pyfftw\nexcept ImportError:\n    pyfftw = None"),
    (late_imports, "znn_dask/io/a.py", "import a\nif find_spec('b') is not None:\n    import b"),
    (needs_extra, "znn_dask/io/a.py", "try:\n    import zarr\nexcept ImportError:\n    zarr = None"),
    (too_long, "kernels/a.cpp", "\n" * 399),
    (long_functions, "znn_dask/net/a.py", function_of(49)),
    (long_functions, "znn_dask/net/a.py", function_of(49, docstring=30)),
    (names_machine, "README.md", "https://example.org/work/home and ~/work/main and ./work/x"),
    (names_machine, ".ci/run", f"DATA=..{SLASH}shared{SLASH}data"),
]


@pytest.mark.parametrize(("rule", "path", "source"), BAD)
def test_a_breach_is_found(rule, path, source):
    found = rule(path, source)
    assert len(found) == 1
    assert found[0].startswith(path)


@pytest.mark.parametrize(("rule", "path", "source"), GOOD)
def test_what_is_allowed_passes(rule, path, source):
    assert rule(path, source) == []


def test_numpy_is_found_directly_and_through_another_module():
    direct = {"znn_dask/net/a.py": "import numpy as np"}
    assert reaches_numpy(direct) == ["znn_dask/net/a.py imports numpy at znn_dask/net/a.py:1"]
    through = {
        "znn_dask/net/a.py": "from znn_dask.net import b",
        "znn_dask/net/__init__.py": "",
        "znn_dask/net/b.py": "from znn_dask import randomness",
        "znn_dask/randomness.py": "\nfrom numpy.random import Philox",
    }
    # Submodules of net are all walked on their own, so the way from a to b need not be.
    assert reaches_numpy(through) == ["znn_dask/net/b.py imports numpy at znn_dask/randomness.py:2"]


def test_the_table_has_no_circle():
    for name, below in MAY_IMPORT.items():
        for other in below - {"_kernels"}:
            assert name not in MAY_IMPORT[other], f"{name} and {other} may import each other"
    assert all(not MAY_IMPORT[leaf] & (LEAVES - {leaf}) for leaf in LEAVES)
