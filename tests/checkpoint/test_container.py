"""What is written is what is read, here and by the safetensors library."""

import numpy as np
import pytest

from numadam._checkpoint.container import Container, read, write


def test_round_trip(tmp_path):
    write(tmp_path / "a", Container("optimizer", {"lr": 0.1}, {"p/w": np.arange(3.0)}))
    found = read(tmp_path / "a", "optimizer")
    assert found.meta == {"lr": 0.1}
    assert found.arrays["p/w"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="saved by an optimiser"):
        read(tmp_path / "a", "minimize")
