"""The demo on several ranks: the losses of one process, and one voice."""

import numpy as np
import pytest

from numadam.cli import main
from numadam.demos import network
from numadam.demos.team import Team


@pytest.fixture(scope="module")
def digits():
    data = network.load()
    return network.Digits(data.x[:500], data.y[:500], data.x_val, data.y_val)


@pytest.mark.parametrize("loss", network.LOSSES)
def test_any_number_of_ranks_has_the_losses_of_one_process(comm, digits, loss):
    """Batches of 50 on 3 or 4 ranks: parts of unlike size."""
    how = network.Training(epochs=2, batch=50, hidden=8, loss=loss, l2=1e-3)
    found = network.train(digits, how, team=Team(comm))
    alone = network.train(digits, how)
    np.testing.assert_allclose(found.batch_losses, alone.batch_losses, rtol=1e-4)
    assert len(found.batch_losses) == 20
    assert found.stopped == alone.stopped
    same = comm.bcast((found.params, found.batch_losses, found.epochs))
    for key, value in found.params.items():
        np.testing.assert_array_equal(value, same[0][key])
    assert (found.batch_losses, found.epochs) == same[1:]


def test_a_batch_smaller_than_the_ranks(comm, digits):
    few = network.Digits(digits.x[:3], digits.y[:3], digits.x_val, digits.y_val)
    how = network.Training(epochs=3, batch=1, hidden=4)
    found, alone = network.train(few, how, team=Team(comm)), network.train(few, how)
    np.testing.assert_allclose(found.batch_losses, alone.batch_losses, rtol=1e-4)


def test_two_ranks_learn_and_one_speaks(mpiexec, tmp_path):
    path = tmp_path / "curves.png"
    words = ("-m", "numadam", "demo", "mlp", "--mpi", "--epochs", 2, "--output", path)
    done = mpiexec(2, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("epoch")]) == 2
    assert len([line for line in lines if line.startswith("2 ranks: ")]) == 1
    assert float(lines[-2].split()[-1]) > 0.8
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "Error" not in done.stderr


def test_what_is_refused_is_one_sentence(mpiexec, tmp_path):
    done = mpiexec(
        2, "-m", "numadam", "demo", "mlp", "--mpi", "--output", tmp_path / "no" / "x.png"
    )
    assert done.returncode == 2
    assert done.stderr.count("error: --output: cannot write") == 1


def test_one_rank_is_told_how_to_start_more(comm, capsys, tmp_path, digits, monkeypatch):
    if comm.size > 1:
        pytest.skip("of one rank")
    monkeypatch.setattr(network, "load", lambda *_, **__: digits)
    words = ["demo", "mlp", "--mpi", "--max-steps", "3", "--output", str(tmp_path / "x.png")]
    assert main(words) == 0
    assert "mpiexec -n 2 python -m numadam demo mlp --mpi" in capsys.readouterr().out
