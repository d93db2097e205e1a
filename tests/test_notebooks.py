"""Every notebook runs from its first cell to its last, and none is stored with what it printed."""

import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
kernelspec = pytest.importorskip("ipykernel.kernelspec", reason="ipykernel is not installed")

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TIME_OUT_S = 180


def kernel_of_this_python(folder, monkeypatch):
    """Let "python3" mean this interpreter, whatever kernels and profiles the user has."""
    kernelspec.write_kernel_spec(str(folder / "jupyter" / "kernels" / "python3"))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)


def run(notebook, folder):
    """Execute a notebook in a folder of its own; an error in a cell is raised here."""
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=TIME_OUT_S,
        force_raise_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


def complaints(notebook):
    """Return why a notebook must not be stored as it is."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.get("outputs"):
            found.append(f"cell {number} holds outputs")
        if cell.get("execution_count") is not None:
            found.append(f"cell {number} holds an execution count")
        if cell.metadata:
            found.append(f"cell {number} holds metadata {sorted(cell.metadata)}")
    unknown = set(notebook.metadata) - {"kernelspec", "language_info"}
    if unknown:
        found.append(f"the notebook holds metadata {sorted(unknown)}")
    return found


def stderr_of(notebook):
    """Return what the cells wrote to standard error."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.timeout(TIME_OUT_S)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_warnings(path, tmp_path, monkeypatch):
    kernel_of_this_python(tmp_path, monkeypatch)
    notebook = nbformat.read(path, as_version=4)
    run(notebook, tmp_path)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    # Progress bars also write there, so it need not be empty.
    assert "Warning" not in stderr_of(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_numbered_and_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stem[:2].isdigit()
    assert complaints(notebook) == []


@pytest.mark.timeout(TIME_OUT_S)
def test_errors_and_outputs_are_noticed_and_the_kernel_is_this_python(tmp_path, monkeypatch):
    kernel_of_this_python(tmp_path, monkeypatch)
    cells = [nbformat.v4.new_code_cell("import sys; sys.executable"), nbformat.v4.new_code_cell("1 / 0")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        run(notebook, tmp_path)
    assert notebook.cells[0].outputs[0].data["text/plain"] == repr(sys.executable)
    assert {complaint for complaint in complaints(notebook) if "cell 0" in complaint} >= {
        "cell 0 holds outputs",
        "cell 0 holds an execution count",
    }
