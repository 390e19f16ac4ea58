"""The benchmarks on MPI: what they count, the model of scale, and its page. Nothing is timed."""

import argparse
import importlib.util
import json
import os
import shutil
from dataclasses import replace

import pytest

from numadam._version import install_command
from numadam.bench import cli, mpi_cases, scale_model
from numadam.bench.case import Case
from numadam.bench.cases import named
from numadam.bench.mpi_cases import MPI_CASES
from numadam.bench.scale_model import Layout, Machine
from tests import extras
from tests.bench.scripts import ROOT, load

scale = load("scale")


def table():
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(["--mpi"])


@pytest.fixture(scope="module")
def mpiexec():
    if why := mpi_cases.missing():
        extras.stop("mpi", why)


@pytest.fixture(scope="module")
def answers(mpiexec):
    """What two ranks have found."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), before)))
    try:
        return json.loads(mpi_cases.run_ranks("tests.bench.mpi_ranks", []))
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.mark.mpi
def test_every_case_of_the_table_has_what_the_ranks_run(answers):
    assert sorted(case.name for case in MPI_CASES) == answers["cases"]
    for case in MPI_CASES:
        assert named(case.name) is case


@pytest.mark.mpi
def test_counting_communicator_counts_bytes_and_messages(answers):
    refused = "Allreduce: is not counted yet. Count it in mpi_memory.py."
    each = [[80, 1], [80, 1], [40, 1], [48, 2], [64, 2], refused]
    assert answers["counted"] == [each, each]


@pytest.mark.mpi
def test_growth_counts_what_ranks_share_once(answers):
    own, shared, whole = answers["grown"]
    assert own == pytest.approx([16e6, 16e6], rel=0.03)
    assert sum(shared) == pytest.approx(64e6, rel=0.05)
    assert whole > 10_000_000


@pytest.mark.mpi
def test_times_of_all_sides_are_the_same_on_all_ranks(answers):
    assert answers["timed"] == [True, True, [3, 3, 3], 0.5]


@pytest.mark.mpi
def test_run_of_ranks_that_fails_says_why(mpiexec):
    with pytest.raises(RuntimeError, match=r"(?s)a case on 1 ranks failed: .*KeyError: 'no-case'"):
        # the lines of several ranks may come in one another
        mpi_cases.run_ranks("numadam.bench.mpi_worker", ["no-case", "1"], ranks=1)


def test_table_needs_mpiexec(monkeypatch, capsys):
    monkeypatch.setattr(mpi_cases.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    assert cli.run(table()) == 1
    assert capsys.readouterr().err.startswith("--mpi: mpiexec is not installed: pip install")


def test_table_needs_mpi4py(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.run(table()) == 1
    assert capsys.readouterr().err == f"--mpi: mpi4py is not installed: {install_command('mpi')}\n"
    assert named("mpi-mode1-20M").missing() == "mpi4py is not installed"


def test_mpiexec_beside_the_interpreter_comes_first(monkeypatch):
    asked = []

    def which(name, path=None):
        asked.append(path)
        return f"{path}/{name}" if path else f"/elsewhere/{name}"

    monkeypatch.setattr(shutil, "which", which)
    assert not mpi_cases.mpiexec().startswith("/elsewhere")
    assert asked[0]


def test_note_of_a_figure_is_shown():
    from numadam.bench.measure import Figure
    from numadam.bench.report import Row, cells

    row = Row(Case("x", "what", 1.0, lambda: None), Figure(0.5, note="80 MB"))
    assert cells(row)[-1] == "what (80 MB)"


#: A memory that moves a step of one number in a second, messages of 4 bytes in one.
MACHINE = Machine(
    cores=2,
    memory=56.0,
    rank_memory=28.0,
    network=4.0,
    stored=4.0,
    latency=0.0,
    call=0.0,
    message=0.0,
    capacity=1e9,
    overlap=False,
)


def near(value):
    return pytest.approx(value, rel=1e-12)


def test_model_of_memory_alone():
    assert scale_model.distributed(MACHINE, Layout(10, 1, 2)) == near(10.0)
    assert scale_model.distributed(MACHINE, Layout(10, 2, 2)) == near(5.0)
    assert scale_model.distributed(MACHINE, Layout(10, 8, 2)) == near(1.25)  # 4 nodes
    assert scale_model.clipped(MACHINE, Layout(14, 2, 2)) == near(8.0)
    # 28 bytes and one gradient more
    assert scale_model.shared(MACHINE, Layout(14, 2, 2)) == near(8.0)


def test_model_of_traffic():
    """Without overlap the step of half the parameters, then half of them out twice."""
    assert scale_model.sharded(MACHINE, Layout(8, 2, 2)) == near(4.0 + 2 * 4.0)
    assert scale_model.replicated(MACHINE, Layout(8, 2, 2)) == near(8.0 + 2 * 4.0)
    # four ranks on two cores: each moves 3/4 out and in, and waits for another
    assert scale_model.sharded(MACHINE, Layout(8, 4, 4)) == near(4.0 + 2 * 2 * 6.0)
    card = replace(MACHINE, overlap=True, memory=1e9, rank_memory=1e9)
    assert scale_model.sharded(card, Layout(8, 2, 1)) == near(2 * 4.0)
    # two ranks a node: each sends 3/4 - 1/4 over the card, or a node 1/2 where it shares them
    assert scale_model.sharded(card, Layout(8, 4, 2)) == near(2 * 2 * 4.0)
    assert scale_model.combined(card, Layout(8, 4, 2)) == near(2 * 4.0)


def test_model_of_messages_and_latency():
    slow = replace(MACHINE, message=1.0, network=1e9, stored=1e9, memory=1e12, rank_memory=1e12)
    # three others, twice, 4 numbers each in messages of 2
    found = scale_model.sharded(slow, Layout(16, 4, 4, message=2))
    assert found == pytest.approx(2 * (2 * 3 * 2), rel=1e-6)  # two ranks a core
    late = replace(MACHINE, latency=1.0)
    assert scale_model.gather(late, Layout(1, 1000, 1000)) == 10.0
    assert scale_model.gather(late, Layout(1, 3000, 3000)) == 2999.0  # MPICH's ring
    assert scale_model.gather(late, Layout(1, 4096, 4096)) == 12.0
    assert scale_model.gather(late, Layout(1, 3000, 3000), ring=False) == 12.0


@pytest.mark.parametrize(
    ("mode", "bytes_"),
    [("mode 1", 8), ("mode 2", 20), ("mode 3", 20), ("modes 3 + 2", 16), ("replicated", 32)],
)
def test_model_of_memory_needed(mode, bytes_):
    """Of 4 ranks, 2 a node, a parameter."""
    assert scale_model.bytes_of_node(mode, Layout(1, 4, 2)) == bytes_


def test_mode_runs_where_it_fits():
    small = replace(MACHINE, capacity=100.0)
    assert scale_model.runs("mode 1", small, Layout(10, 4, 2))
    assert not scale_model.runs("mode 1", small, Layout(10, 2, 2))
    assert scale_model.runs("mode 2", MACHINE, Layout(1, 2, 2))
    assert not scale_model.runs("mode 2", MACHINE, Layout(1, 4, 2))
    assert not scale_model.runs("modes 3 + 2", MACHINE, Layout(1, 4, 1))


def test_page_is_what_the_data_say():
    text = scale.page(json.loads(scale.DATA.read_text()))
    assert scale.PAGE.read_text().endswith(text)
