"""The benchmarks on MPI: what they count, and the model of scale. Nothing is timed."""

import importlib.util
import math
import shutil
from dataclasses import replace

import pytest

from numadam._version import install_command
from numadam.bench.peers import Unavailable
from tests import extras
from tests.bench import LIMIT, ROOT, load

mpi, scale_model = load("benchmarks.mpi"), load("scale_model")
Layout, Machine = scale_model.Layout, scale_model.Machine


@pytest.fixture(scope="module")
def mpiexec():
    try:
        return mpi.mpiexec()
    except Unavailable as why:
        extras.stop("mpi", str(why))


@pytest.fixture(scope="module")
def answers(mpiexec):
    """What two ranks have found, with arrays of few numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*LIMIT)
        return mpi.run_ranks(ROOT / "tests" / "bench" / "ranks_of_bench.py", [])


@pytest.mark.mpi
def test_every_case_of_the_table_runs_on_two_ranks(answers):
    assert sorted(mpi.OnTwoRanks.cases) == answers["cases"]
    assert len(answers["figures"]) >= 8
    # bytes of few numbers may fall, too
    assert all(math.isfinite(value) for value in answers["figures"].values())


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["mpi-mode1-20M", "mpi-mode3-torch-20x1M", "mpi-mode3-torch-20M"])
def test_case_starts_its_ranks(name, mpiexec, monkeypatch):
    case = mpi.OnTwoRanks.cases[name]
    if why := case.missing():
        pytest.skip(why)
    monkeypatch.setenv(*LIMIT)
    assert math.isfinite(case.make()(1).value)


@pytest.mark.mpi
def test_counting_communicator_counts_bytes_and_messages(answers):
    refused = "Allreduce: is not counted yet. Count it in mpi_ranks.py."
    sent = [[80, 1], [80, 1], [40, 1], [24, 1], [24, 1], [16, 1], [24, 1]]
    assert answers["counted"] == [[*sent, refused]] * 2


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
        mpi.run_ranks("mpi_ranks.py", ["no-case", "1"], ranks=1)


def test_ranks_need_mpiexec(monkeypatch):
    monkeypatch.setattr(mpi.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    with pytest.raises(Unavailable, match="mpiexec is not installed: pip install"):
        mpi.OnTwoRanks.cases["mpi-mode1-20M"].make()


def test_ranks_need_mpi4py(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotImplementedError) as skipped:  # for asv
        mpi.OnTwoRanks().setup("mpi-mode1-20M")
    assert str(skipped.value) == f"mpi4py is not installed: {install_command('mpi')}"


def test_mpiexec_beside_the_interpreter_comes_first(monkeypatch):
    asked = []

    def which(name, path=None):
        asked.append(path)
        return f"{path}/{name}" if path else f"/elsewhere/{name}"

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    assert not mpi.mpiexec().startswith("/elsewhere")
    assert asked[0]


#: A memory that moves a step of one number in a second, messages of 4 bytes in one.
MACHINE = Machine(
    cores=2, memory=56.0, rank_memory=28.0, network=4.0, stored=4.0, latency=0.0, call=0.0,
    message=0.0, capacity=1e9, overlap=False,
)  # fmt: skip


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
