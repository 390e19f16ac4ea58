"""``python -m numadam compile``: what it compiles no later process compiles, and misuse."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from numadam.cli import main
from tests.processes import ROOT, python

#: Prints what is compiled, and refuses to write below the folder of the loops, even to root.
WATCHED = """
import logging, os, sys, warnings
class Print(logging.Handler):
    def emit(self, record):
        if record.name == "numadam":  # not "numadam.objective"
            print(record.getMessage())
logging.getLogger("numadam").addHandler(Print())
logging.getLogger("numadam").setLevel("INFO")
def refuse(event, args):
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "tempfile.mkstemp"):
        path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else ""
        writes = event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and path.startswith(os.environ["NUMBA_CACHE_DIR"]):
            raise PermissionError(13, "Read-only folder", path)
sys.addaudithook(refuse)
from numadam._jit.cache import directory
assert directory() is None
warnings.simplefilter("ignore", na.CacheWarning)
"""

#: An objective that Numba compiles.
FUN = """
import numba
@numba.njit
def fun(x, g):
    f = 0.0
    for k in range(x.size):
        g[k] = 2 * x[k]; f += x[k] * x[k]
    return f
"""

#: Everything that a small optimiser is asked to do.
USES = """
for n in (3, 100_000):
    x = np.full(n, 0.5)
    opt = na.SGD(x, lr=0.1, bounds=(0, 1))
    opt.step(np.ones(n)); opt.step(np.ones((n, 2))[:, 0]); opt.step(np.ones(n), out=np.empty(n))
pairs = np.full((2, 50, 2), 0.5)
opt = na.SGD([*pairs[:, :, 0]], bounds=(0, 1)); opt.step([np.ones(50)] * 2)
many = [np.full(4, 0.5) for _ in range(200)]
na.SGD(many, bounds=(0, 1)).step([np.ones(4) for _ in many])
na.sgd_update(np.full(3, 0.5), np.ones(3), bounds=(0, 1))
how = dict(rule="sgd", bounds=(0, 1), maxiter=3)
na.minimize(lambda x: (x @ x, 2 * x), np.full(3, 0.5), jac=True, callback=na.History(), **how)
na.minimize(lambda x: x @ x, np.full(3, 0.5), ftol=1e-3, xtol=1e-3, **how)
na.minimize(fun, np.full(5, 0.5), **how)
"""


def compile_ahead(folder: Path, *words: str) -> tuple[str, str]:
    """Run the command under a terminal; its output, and what the terminal was told."""
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    mine, its = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    env["NUMBA_CACHE_DIR"] = str(folder / "unused")
    done = subprocess.run(
        [sys.executable, "-m", "numadam", "compile", *words, "--folder", str(folder)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=its,
        text=True,
        timeout=280,
        check=False,
    )
    os.close(its)
    try:
        told = os.read(mine, 10_000).decode()
    except OSError:  # nothing was written
        told = ""
    os.close(mine)
    assert done.returncode == 0, told
    return done.stdout, told


#: Fits on one core, and on all.
FITS = """
@numba.njit
def residuals(x, r):
    r[:] = x - 1

for problems in (1, 5000):
    na.least_squares_many(residuals, np.zeros((problems, 3)), m=3)
"""


def test_a_later_process_compiles_nothing(tmp_path: Path) -> None:
    """Not even one that cannot write to the folder; another option compiles, and works."""
    words = "--rule", "sgd", "--out", "--minimize", "--bounds", "0,1"
    said, told = compile_ahead(tmp_path, *words, "--fits")
    assert not told
    *lines, summary, needed, advice = said.splitlines()
    assert all(re.fullmatch(r"compiled \S+ in \d+\.\d s", line) for line in lines)
    names = {line.split()[1] for line in lines}
    assert {"validate", "sgd-float64-scalar-bounds-serial"} <= names
    files = list((tmp_path / "numadam").glob("*.loop"))
    assert summary.startswith(f"{len(lines)} compiled in ")
    assert f"{tmp_path}/numadam holds {len(files)} loops" in summary
    assert len(files) == len(lines) + 2 >= 12  # with an objective and residuals that runs need
    assert "processor" in needed
    assert advice.endswith(f"NUMBA_CACHE_DIR={tmp_path}")
    assert not (tmp_path / "unused").exists()
    assert python(WATCHED + FUN + USES + FITS, NUMBA_CACHE_DIR=str(tmp_path)) == ""
    again, _ = compile_ahead(tmp_path, "--rule", "sgd", "--out", "--bounds", "0,1")
    assert again.startswith("0 compiled in ")
    other = "p = np.ones(3); na.SGD(p, lr=1.0).step(np.full(3, 0.25)); print(p)"
    *lines, right = python(WATCHED + other, NUMBA_CACHE_DIR=str(tmp_path)).splitlines()
    assert right == "[0.75 0.75 0.75]"
    assert [line.split(" in ")[0] for line in lines] == ["compiled sgd-float64-serial"]
    assert lines[0].endswith("for this process only")


@pytest.mark.sweep
def test_a_norm_of_its_own_is_compiled_too(tmp_path: Path) -> None:
    compile_ahead(tmp_path, "--rule", "sgd", "--bounds", "0,1", "--minimize", "--norm", "2")
    uses = USES.replace("maxiter=3", "maxiter=3, norm=2").replace(", out=np.empty(n)", "")
    assert python(WATCHED + FUN + uses, NUMBA_CACHE_DIR=str(tmp_path)) == ""


#: And of many problems: vectorised and not, on one core and on all, compiled and in Python.
MANY = """
how = dict(rule="sgd", maxiter=3, xtol=1e-3)
for shape in ((1, 3), (2, 3), (100, 3), (5000, 3), (1, 40), (5000, 40)):
    na.minimize_many(fun, np.full(shape, 0.5), **how)
na.minimize_many(lambda X: ((X * X).sum(1), 2 * X), np.ones((4, 3)), jac=True, **how)
"""


@pytest.mark.sweep
def test_a_later_process_compiles_nothing_for_many_problems(tmp_path: Path) -> None:
    compile_ahead(tmp_path, "--rule", "sgd", "--many")
    assert python(WATCHED + FUN + MANY, NUMBA_CACHE_DIR=str(tmp_path)) == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--clip-nrom", "1"], "unrecognized arguments: --clip-nrom 1"),
        (["--clip", "1"], "unrecognized arguments: --clip 1"),
        (["--clip-norm", "-1"], "clip_norm: expected"),
        (["--rule", "adam", "sgd", "--beta1", "0.5"], "beta1"),
        (["--rule", "adamm"], "invalid choice: 'adamm'"),
        (["--dtype", "int64"], "invalid choice: 'int64'"),
        (["--like", "caffe"], "like: "),
        (["--eps-form", "schedule"], "eps_form: "),
        (["--minimize", "--maximize"], "maximize: not for a minimisation"),
        (["--norm", "2"], "norm: only --minimize and --many"),
        (["--folder", ""], "--folder: expected a folder, got an empty word"),
    ],
)
def test_misuse_is_one_sentence(words, says, capsys):
    from numadam._jit import reports

    level, handlers, patience = reports.logger.level, reports.logger.handlers[:], reports.PATIENCE
    assert main(["compile", *words, "--serial"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert (reports.logger.level, reports.PATIENCE) == (level, patience)
    assert reports.logger.handlers == handlers


def test_a_folder_that_cannot_be_written_is_one_sentence(capsys, tmp_path):
    from numadam._jit import cache

    (tmp_path / "file").write_text("")
    before = cache.directory()
    assert main(["compile", "--folder", str(tmp_path / "file")]) == 1
    folder = tmp_path / "file" / "numadam"
    assert f"cannot write the loops: {folder}: Not a directory\n" in capsys.readouterr().err
    assert cache.directory() == before


def test_a_full_disk_is_a_failure(tmp_path):
    """No image is built without its loops as if all were well; a warning says why."""
    code = """
    import sys, warnings
    from numadam._jit import cache
    from numadam.cli import main
    def full(*args):
        raise OSError(28, "No space left on device")
    cache.Path.replace = full
    warnings.simplefilter("always")
    sys.stderr = sys.stdout
    print("exit code", main(["compile", "--rule", "sgd", "--serial", "--folder", FOLDER]))
    """
    out = python(code.replace("FOLDER", repr(str(tmp_path))))
    assert "could not be written to (No space left on device)" in out
    assert re.search(r"error: (\d+) of \1 loops could not be written to .*\nexit code 1$", out)


def test_every_keyword_of_every_rule_is_an_option():
    from numadam.cli import parser

    words = ["compile", "--amsgrad", "--clip_norm", "1", "--bounds=-1,None", "--like", "keras"]
    given = vars(parser("compile").parse_args(words))
    options = {name: value for name, value in given.items() if name.startswith("option_")}
    assert options == {
        "option_amsgrad": True,
        "option_clip_norm": 1,
        "option_bounds": (-1, None),
        "option_like": "keras",
    }
