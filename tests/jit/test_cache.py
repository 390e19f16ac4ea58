"""The cache on the disk: damaged, shared by processes, out of date, or not writable."""

import shutil
from pathlib import Path

from tests.processes import ROOT, python

UNKEPT = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    opt = na.SGD(np.ones(10))  # compiles the step and the validation
    opt.step(np.ones(10))
(told,) = told
assert told.category is na.CacheWarning
print(told.filename, opt.t, told.message, sep="|")
"""


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    """Nothing fails at import or in a step; loops are compiled in memory."""
    blocked = tmp_path / "a-file"
    blocked.write_text("not a folder")
    folder = blocked / "below"
    file, t, text = python(UNKEPT, NUMBA_CACHE_DIR=str(folder)).split("|")
    assert (file, t) == ("<string>", "1")  # the user's file: that of `python -c`
    assert f"{folder / 'numadam'}: Not a directory" in text
    assert "Set NUMBA_CACHE_DIR" in text


def test_a_process_that_compiles_nothing_is_not_warned(warm: str) -> None:
    """A read-only image that was filled before: nothing is missing."""
    python(
        """
        import os, tempfile
        from numadam._jit import build
        usual = tempfile.TemporaryFile
        def refuse(*given, dir=None, **how):
            if str(dir).startswith(os.environ["NUMBA_CACHE_DIR"]):
                raise PermissionError(13, "Permission denied")
            return usual(*given, dir=dir, **how)
        tempfile.TemporaryFile = refuse
        train(10)
        assert build.directory() is None
        """,
        NUMBA_CACHE_DIR=warm,
    )


def test_several_processes_fill_one_cache(filled: tuple[str, list[str]]) -> None:
    folder, digests = filled
    assert digests == digests[:1] * 2
    assert not list(Path(folder).rglob("*.tmp"))


ONE_STEP = """
for case in CASES:
    p, g = np.zeros(7), np.full(7, 2.0)
    if case == "sgd":
        na.sgd_update(p, g, lr=1.0)
        right = -2.0
    else:
        na.sgd_update(p, g, np.ones(7), lr=1.0, momentum=0.5, nesterov=case == "nesterov")
        right = -3.25 if case == "nesterov" else -2.5
    assert np.allclose(p, right, atol=1e-6), (case, p[0], right)
"""


def test_loops_of_other_processes_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Loops from the disk and fresh ones meet in one process, either first.

    Numba names symbols by a counter of the process: without names of our own, momentum from the
    disk was linked against plain SGD compiled here.
    """
    for cases in (["momentum"], ["sgd", "momentum"], ["momentum", "nesterov", "sgd"]):
        python(ONE_STEP.replace("CASES", repr(cases)), NUMBA_CACHE_DIR=str(tmp_path))


def test_cache_sees_changed_formula_and_version(tmp_path: Path) -> None:
    """An edit of the formula's file alone is never served from the old entry."""
    shutil.copytree(ROOT / "numadam", tmp_path / "numadam", ignore=shutil.ignore_patterns("*.loop"))
    code = """
        import logging
        found = []
        handler = logging.Handler()
        handler.emit = lambda record: found.append(record.getMessage())
        logging.getLogger("numadam").addHandler(handler)
        logging.getLogger("numadam").setLevel(logging.DEBUG)
        p = np.ones(3)
        opt = na.SGD(p, lr=1.0, momentum=0.5)
        opt.step(np.ones(3))
        opt.step(np.ones(3))
        print(any(text.startswith("loaded step-sgd") for text in found), p[0])
    """

    def run() -> str:
        return python(code, root=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))

    assert (run(), run()) == ("False -1.5", "True -1.5")
    rule = tmp_path / "numadam" / "rules" / "sgd.py"
    text, formula = rule.read_text(), " + h.share * g\n"
    assert formula in text
    rule.write_text(text.replace(formula, f"{formula[:-1]} + h.share * g\n"))
    assert run() == "False -4.0"
